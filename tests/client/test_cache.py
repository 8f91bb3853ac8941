import json
import mmap
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from registry.client._cache import Cache
from registry.client._folder import Artifact, Folder
from registry.client._hashing import Piece
from registry.domain.names import parse_model

MODEL = parse_model("vision/yolo")
DAY = 86_400


def keep(cache: Cache, number: int, *, size: int = 1000, age: float = 0.0, model: str = "vision/yolo") -> Path:
    """A version in the cache that was last used `age` seconds ago."""
    digest = f"{number:064x}"
    folder = cache.folder(parse_model(model), digest)
    folder.model, folder.number, folder.digest = model, number, digest
    with folder.locked():
        (folder.path / "weights.bin").write_bytes(b"x" * size)
        folder.note(Artifact("weights.bin", size, digest), [Piece(0, size, digest)])
        folder.write()
    used = time.time() - age
    os.utime(folder.path / ".registry/manifest.json", (used, used))
    return folder.path


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    cache = Cache(tmp_path)
    oldest, newest, middle = keep(cache, 1, age=30), keep(cache, 2, age=10), keep(cache, 3, age=20)
    room = sum(file.stat().st_size for path in (newest, middle) for file in path.rglob("*") if file.is_file())
    pruned = cache.make_room(room)
    assert pruned.versions == 1
    assert pruned.freed_bytes > 1000
    assert (oldest.exists(), middle.exists(), newest.exists()) == (False, True, True)
    assert cache.make_room(0).versions == 2
    assert cache.kept() == []


def test_a_cache_without_a_limit_keeps_everything(tmp_path):
    cache = Cache(tmp_path, limit=0)
    path = keep(cache, 1, age=30)
    cache.make_room()
    assert path.exists()


def test_what_was_used_since_the_pull_began_stays(tmp_path):
    cache = Cache(tmp_path, limit=10)
    started = time.time() - 15
    old, recent = keep(cache, 1, age=30), keep(cache, 2, age=10)
    cache.make_room(unused_since=started)
    assert (old.exists(), recent.exists()) == (False, True)


def test_what_somebody_is_pulling_stays(tmp_path):
    cache = Cache(tmp_path, limit=10)
    path = keep(cache, 1, age=30)
    with Folder(path).locked():
        assert cache.make_room().versions == 0
        assert cache.prune(unused_days=0).versions == 0
    assert cache.prune(unused_days=0).versions == 1


def test_who_has_mapped_a_file_keeps_its_bytes(tmp_path):
    cache = Cache(tmp_path, limit=10)
    path = keep(cache, 1, size=100_000)
    with (path / "weights.bin").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        cache.make_room()
        assert not path.exists()
        assert view[:] == b"x" * 100_000


def test_what_a_dead_process_left_of_a_removal_goes_with_the_next(tmp_path):
    cache = Cache(tmp_path, limit=10)
    (tmp_path / "trash/abc").mkdir(parents=True)
    (tmp_path / "trash/abc/half").write_bytes(b"x")
    keep(cache, 1)
    cache.make_room()
    assert not list((tmp_path / "trash").iterdir())


def test_what_is_kept_is_listed_the_last_used_first(tmp_path):
    cache = Cache(tmp_path)
    keep(cache, 1, age=DAY)
    keep(cache, 2, model="Nlp/Bert")
    found = cache.kept()
    assert [(each.model, each.number) for each in found] == [("Nlp/Bert", 2), ("vision/yolo", 1)]
    assert found[1].size > 1000
    assert found[0].used_at - found[1].used_at == pytest.approx(DAY, abs=60)


def numbers(folders: list[Folder]) -> set[int]:
    return {folder.number for folder in folders}


def test_relatives_are_others_of_the_model_its_parents_and_what_was_used_last(tmp_path, monkeypatch):
    monkeypatch.setattr("registry.client._cache._OF_ALL", 2)
    cache = Cache(tmp_path)
    keep(cache, 1, age=100)
    keep(cache, 2, age=1)
    keep(cache, 3, age=50, model="vision/other")
    keep(cache, 4, age=60, model="vision/other")
    keep(cache, 5, age=2, model="nlp/unrelated")
    found = cache.relatives(MODEL, ["vision/other:4", "vision/gone:1"], but=f"{2:064x}")
    assert numbers(found) == {1, 4, 5}


def test_a_cache_that_is_not_there_has_no_relatives(tmp_path):
    assert Cache(tmp_path / "nothing").relatives(MODEL, ["a/b:1"], but="") == []
    assert Cache(tmp_path / "nothing", limit=1).make_room().versions == 0


def hold(path: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with Folder(path).locked():
        ready.set()
        time.sleep(60)


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=hold, args=(tmp_path / "version", ready))
    other.start()
    waited: list[bool] = []
    try:
        assert ready.wait(30)

        def waiting() -> None:
            waited.append(True)
            other.kill()

        with Folder(tmp_path / "version").locked(waiting):
            assert waited == [True]
    finally:
        other.kill()
        other.join()


def test_notes_of_an_older_release_are_read(tmp_path):
    path = keep(Cache(tmp_path), 1)
    notes = path / ".registry/manifest.json"
    document = json.loads(notes.read_bytes())
    document["artifacts"] = [{"path": "weights.bin", "size": 1000, "digest": "0" * 64}]
    notes.write_text(json.dumps(document))
    assert Folder.read(path).artifacts == (Artifact("weights.bin", 1000, "0" * 64),)
