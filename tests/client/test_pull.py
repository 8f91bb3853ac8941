import json
import os
import sqlite3
import threading
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import registry
from registry.client._cache import Cache
from registry.client._layout import Layout
from registry.storage.s3 import Store, StoreConfig
from tests.support.live import Live


def moved(client: registry.Client, *arguments, **options) -> tuple[Path, int]:
    """Pull, and say how many bytes came over the network."""
    seen: dict[str, int] = {}
    path = client.pull(*arguments, progress=lambda phase, done, _: seen.update({phase: done}), **options)
    return path, seen["moved"]


def offline(client: registry.Client) -> registry.Client:
    """The same cache without a registry."""
    lonely = registry.Client("http://127.0.0.1:9", "")
    lonely._cache = client._cache
    return lonely


def test_a_pull_gives_the_bytes_that_were_pushed(client, name, weights, tmp_path):
    path = weights()
    client.push(name, path)
    folder, fetched = moved(client, name, tmp_path / "out")
    assert folder == tmp_path / "out"
    assert (folder / "model.safetensors").read_bytes() == path.read_bytes()
    assert fetched == path.stat().st_size


def test_directories_and_empty_files_come_back(client, name, tmp_path):
    for path, content in {"a.txt": b"a", "deep/er/b.bin": b"b" * 100, "empty": b""}.items():
        _file(tmp_path / "in" / path, content)
    client.push(name, tmp_path / "in")
    folder = client.pull(name, tmp_path / "out", verify_file=True)
    assert _content(folder) == _content(tmp_path / "in")


def test_only_what_a_pattern_fits_is_pulled(client, name, tmp_path):
    for path in ("a.txt", "b.bin", "deep/c.txt"):
        _file(tmp_path / "in" / path, path.encode())
    client.push(name, tmp_path / "in")
    folder = client.pull(name, tmp_path / "out", artifacts=["*.txt"])
    assert set(_content(folder)) == {"a.txt", "deep/c.txt"}
    with pytest.raises(registry.NotFoundError) as caught:
        client.pull(name, tmp_path / "out", artifacts=["*.txt", "*.onnx"])
    assert caught.value.code == "ARTIFACT_NOT_MATCHED"


def test_pulling_again_moves_nothing(client, name, weights, tmp_path):
    client.push(name, weights())
    client.pull(name, tmp_path / "out")
    assert moved(client, name, tmp_path / "out")[1] == 0


def test_a_newer_version_moves_only_what_changed(client, name, weights, tmp_path):
    client.push(name, weights(seed=1))
    client.pull(name, tmp_path / "out")
    newer = weights(seed=1, **{"head.weight": np.ones((80, 100), np.float32)})
    client.push(name, newer)
    folder, fetched = moved(client, name, tmp_path / "out")
    assert (folder / "model.safetensors").read_bytes() == newer.read_bytes()
    assert 0 < fetched < newer.stat().st_size * 0.1


def test_a_pull_reuses_what_the_cache_has(client, name, weights, tmp_path):
    client.push(name, weights(seed=1))
    client.pull(name)
    client.push(name, weights(seed=1, **{"head.weight": np.ones((80, 100), np.float32)}))
    assert moved(client, f"{name}:1", tmp_path / "one")[1] == 0
    assert 0 < moved(client, f"{name}:2", tmp_path / "two")[1] < 500_000


def test_files_of_an_older_version_go_unless_somebody_changed_them(client, name, tmp_path):
    client.push(name, [_file(tmp_path / "keep.bin", b"1"), _file(tmp_path / "old/stale.bin", b"2")])
    client.push(name, [tmp_path / "keep.bin", _file(tmp_path / "extra/changed.bin", b"3"), tmp_path / "old/stale.bin"])
    client.push(name, _file(tmp_path / "keep.bin", b"4"))
    folder = client.pull(f"{name}:2", tmp_path / "out")
    _file(folder / "mine.txt", b"mine")
    _file(folder / "changed.bin", b"changed by hand")
    client.pull(f"{name}:3", folder)
    assert _content(folder) == {"keep.bin": b"4", "mine.txt": b"mine", "changed.bin": b"changed by hand"}


def test_a_directory_that_became_empty_goes_too(client, name, tmp_path):
    client.push(name, [_file(tmp_path / "in/a/b/c.bin", b"1").parents[2]])
    client.push(name, _file(tmp_path / "d.bin", b"2"))
    folder = client.pull(f"{name}:1", tmp_path / "out")
    client.pull(f"{name}:2", folder)
    assert [path.name for path in folder.iterdir() if path.name != ".registry"] == ["d.bin"]


def test_a_changed_file_is_brought_back(client, name, weights, tmp_path):
    path = weights()
    client.push(name, path)
    folder = client.pull(name, tmp_path / "out")
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"oops")
    _, fetched = moved(client, name, folder)
    assert (folder / "model.safetensors").read_bytes() == path.read_bytes()
    assert fetched < path.stat().st_size


def test_a_file_that_somebody_else_brought_is_recognised(client, name, weights, tmp_path):
    path = weights()
    client.push(name, path)
    _file(tmp_path / "out/model.safetensors", path.read_bytes())
    assert moved(client, name, tmp_path / "out")[1] == 0


def test_what_somebody_elses_file_has_in_common_is_not_fetched(client, name, weights, tmp_path):
    path = weights(seed=1)
    client.push(name, path)
    other = path.read_bytes()[:-100] + bytes(100)
    _file(tmp_path / "out/model.safetensors", other)
    folder, fetched = moved(client, name, tmp_path / "out")
    assert (folder / "model.safetensors").read_bytes() == path.read_bytes()
    assert 0 < fetched < path.stat().st_size * 0.7


def test_a_version_of_another_model_that_shares_segments_is_not_fetched(client, name, weights, tmp_path):
    base = client.push(name, weights(seed=1))
    client.pull(base.ref)
    tuned = weights("tuned/tuned.safetensors", seed=1, **{"head.weight": np.ones((80, 100), np.float32)})
    client.push(f"{name}-tuned", tuned, parents=[base])
    folder, fetched = moved(client, f"{name}-tuned", tmp_path / "out")
    assert (folder / "tuned.safetensors").read_bytes() == tuned.read_bytes()
    assert 0 < fetched < tuned.stat().st_size * 0.1


def test_a_pull_into_the_cache_makes_room(live, name, weights, tmp_path):
    with live.client(cache=tmp_path / "small") as client:
        client._cache._limit = 8_000_000
        client.push(name, weights(seed=1))
        client.push(name, weights(seed=2))
        client.push(name, weights(seed=3))
        first, second, third = (client.pull(f"{name}:{number}") for number in (1, 2, 3))
    assert (first.exists(), second.exists(), third.exists()) == (False, False, True)


def test_without_a_directory_the_version_goes_to_the_cache(client, name, weights, tmp_path):
    version = client.push(name, weights())
    folder = client.pull(name)
    assert folder == tmp_path / "cache" / "versions" / name / version.digest.removeprefix("sha256:")


def test_a_cached_digest_needs_no_registry(client, name, weights, tmp_path):
    version = client.push(name, weights())
    folder = client.pull(name)
    ref = f"{name}@{version.digest}"
    with offline(client) as lonely:
        assert lonely.pull(ref.replace("default/", "")) == folder
        assert lonely.pull(ref, tmp_path / "out", verify_file=True) == tmp_path / "out"
        assert (tmp_path / "out/model.safetensors").read_bytes() == weights().read_bytes()
        with pytest.raises(registry.UnavailableError):
            lonely.pull(f"{name}:1")
        (folder / "model.safetensors").unlink()
        (tmp_path / "out/model.safetensors").unlink()
        with pytest.raises(registry.UnavailableError):
            lonely.pull(ref)


def test_a_digest_of_which_only_a_part_is_cached_is_completed(client, name, tmp_path):
    for path in ("a.txt", "b.txt"):
        _file(tmp_path / "in" / path, path.encode())
    version = client.push(name, tmp_path / "in")
    ref = f"{name}@{version.digest}"
    client.pull(ref, artifacts=["a.txt"])
    with offline(client) as lonely:
        lonely.pull(ref, artifacts=["a.*"])
        with pytest.raises(registry.UnavailableError):
            lonely.pull(ref)
    assert set(_content(client.pull(ref))) == {"a.txt", "b.txt"}


def test_a_flipped_byte_in_the_store_fails_closed_and_is_named(client, name, s3_config, weights, tmp_path):
    client.push(name, weights(seed=61))
    old = _file(tmp_path / "out/model.safetensors", b"what was there before")
    offset = _damage(client, f"{name}:1", s3_config, position=1)
    with pytest.raises(registry.LocalError) as caught:
        client.pull(name, tmp_path / "out")
    assert caught.value.code == "SEGMENT_DAMAGED"
    assert caught.value.details["artifact"] == "model.safetensors"
    assert caught.value.details["offset"] == offset
    assert old.read_bytes() == b"what was there before"
    with pytest.raises(registry.LocalError):
        client.load(name, ["body.weight"])


def test_a_version_that_is_known_to_be_damaged_is_neither_pulled_nor_loaded(client, name, live, weights, tmp_path):
    client.push(name, weights())
    _mark_damaged(live, name)
    for call in (lambda: client.pull(name, tmp_path / "out"), lambda: client.load(name)):
        with pytest.raises(registry.ConflictError) as caught:
            call()
        assert caught.value.code == "VERSION_DAMAGED"
    assert not (tmp_path / "out").exists()


def test_verify_file_finds_what_the_disk_did(client, name, weights, tmp_path):
    path = weights()
    client.push(name, path)
    folder = client.pull(name, tmp_path / "out")
    stat = (folder / "model.safetensors").stat()
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"rot")
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert moved(client, name, folder)[1] == 0
    with pytest.raises(registry.LocalError) as caught:
        client.pull(name, folder, verify_file=True)
    assert caught.value.code == "FILE_DAMAGED"
    client.pull(name, folder, verify_file=True)
    assert (folder / "model.safetensors").read_bytes() == path.read_bytes()


def test_a_link_out_of_the_directory_is_not_followed(client, name, tmp_path):
    _file(tmp_path / "in/deep/a.txt", b"a")
    client.push(name, tmp_path / "in")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(registry.LocalError) as caught:
        client.pull(name, tmp_path / "out")
    assert caught.value.code == "PATH_OUTSIDE"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_target_that_cannot_be_written_is_told(client, name, weights, tmp_path):
    client.push(name, weights())
    with pytest.raises(registry.LocalError) as caught:
        client.pull(name, _file(tmp_path / "file", b"") / "below")
    assert caught.value.code == "FILE_UNWRITABLE"


def test_broken_notes_only_cost_work(client, name, weights, tmp_path):
    client.push(name, weights())
    folder = client.pull(name, tmp_path / "out")
    for broken in (b"", b"{", b"[]", b'{"schema": 2}', b'{"schema": 1, "artifacts": 3}'):
        (folder / ".registry/manifest.json").write_bytes(broken)
        assert moved(client, name, folder)[1] == 0
    assert json.loads((folder / ".registry/manifest.json").read_bytes())["number"] == 1


def test_several_pulls_into_one_directory_wait_for_each_other(live, client, name, weights, tmp_path):
    client.push(name, weights())
    fetched: list[int] = []

    def pull() -> None:
        with live.client(cache=tmp_path / "cache") as other:
            fetched.append(moved(other, name, tmp_path / "out")[1])

    threads = [threading.Thread(target=pull) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fetched) == [0, 0, 0, weights().stat().st_size]


def test_signed_urls_that_expire_are_fetched_anew(client, name, weights, tmp_path, monkeypatch):
    path = weights()
    client.push(name, path)
    rounds: list[int] = []
    sign = Layout.sign

    def signing(self, pieces):
        found = dict(sign(self, pieces))
        rounds.append(len(found))
        if len(rounds) > 1:
            return found
        return {sha256: url.replace("X-Amz-Expires=", "X-Amz-Expires=1") for sha256, url in found.items()}

    monkeypatch.setattr(Layout, "sign", signing)
    client.pull(name, tmp_path / "out", verify_file=True)
    assert len(rounds) > 1


def test_a_long_layout_is_read_page_after_page(client, name, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("registry.client._layout.PAGE", 2)
    path = weights()
    client.push(name, path)
    assert (client.pull(name, tmp_path / "out") / "model.safetensors").read_bytes() == path.read_bytes()


def test_the_cache_forgets_what_was_not_used(client, name, weights, tmp_path):
    client.push(name, weights(seed=1))
    client.push(name, weights(seed=2))
    old, recent = client.pull(f"{name}:1"), client.pull(f"{name}:2")
    os.utime(old / ".registry/manifest.json", (0, 0))
    pruned = Cache(tmp_path / "cache").prune(unused_days=1)
    assert pruned.versions == 1
    assert pruned.freed_bytes > weights().stat().st_size
    assert not old.exists()
    assert recent.exists()


def test_a_reference_in_another_spelling_finds_the_same_cache(client, name, weights):
    version = client.push(name, weights())
    folder = client.pull(name)
    assert client.pull(f"{name.upper().replace('-', '_')}@{version.digest}") == folder


def _mark_damaged(live: Live, name: str) -> None:
    """What the worker does when it finds that the bytes are not what was published."""
    query = "SELECT id FROM models WHERE name = ?"
    with sqlite3.connect(live.folder / "registry.db", timeout=30) as connection:
        model = connection.execute(query, (name.partition("/")[2],)).fetchone()[0]
        connection.execute("UPDATE versions SET integrity = 'damaged' WHERE model_id = ?", (model,))
    connection.close()


def _file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _content(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: data for path, data in found.items() if not path.startswith(".registry")}


def _damage(client: registry.Client, ref: str, config: StoreConfig, *, position: int) -> int:
    """Flip a byte of a segment behind the registry's back; gives the segment's offset."""
    model, _, number = ref.partition(":")
    layout = Layout(client._api, model, int(number), "model.safetensors")
    piece = layout.all()[position]
    path = urlsplit(layout.sign([piece])[piece.sha256]).path
    key = path.removeprefix(f"/{config.bucket}/")
    store = Store(config)
    data = bytearray(store.read(key, 0, piece.size))
    data[7] ^= 1
    store.delete(key)
    store.put(key, bytes(data), sha256(data).hexdigest())
    return piece.offset
