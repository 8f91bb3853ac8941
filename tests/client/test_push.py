import os
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import httpx2
import numpy as np
import pytest

import registry
from registry.client import _push
from registry.client._sources import sources
from registry.weights.errors import SafetensorsTruncatedError, ShardMissingError
from tests.client.conftest import arrays
from tests.support import ROOT
from tests.support.live import TOKEN, live_registry

NOWHERE = "http://127.0.0.1:9"


def offline() -> registry.Client:
    return registry.connect(NOWHERE, "x")


def test_what_was_pushed_is_described_by_the_version(client, name, weights):
    path = weights()
    version = client.push(
        name,
        path,
        metrics={"mAP50-95": np.float32(0.5)},
        params={"lr0": np.float64(0.01), "freeze": [1, 2], "data": Path("coco.yaml")},
        parents=["hf://acme/base"],
        message="first",
        tags={"licence": "mit"},
        aliases=["candidate"],
        class_names=["car", "bus"],
    )
    assert (version.model, version.number, version.ref, version.created) == (name, 1, f"{name}:1", True)
    assert version.metrics == {"mAP50-95": 0.5}
    assert version.params == {"lr0": 0.01, "freeze": [1, 2], "data": "coco.yaml"}
    assert [(parent.relation, parent.uri) for parent in version.parents] == [("finetune", "hf://acme/base")]
    assert (version.message, version.tags, version.aliases) == ("first", {"licence": "mit"}, ["candidate"])
    assert version.class_names == ["car", "bus"]
    (artifact,) = version.artifacts
    assert artifact.path == "model.safetensors"
    assert artifact.digest == f"sha256:{sha256(path.read_bytes()).hexdigest()}"
    assert artifact.tensor_count == len(arrays())


def test_the_same_content_again_moves_nothing_and_is_the_same_version(client, name, weights):
    path = weights(seed=11)
    first = client.push(name, path)
    again = client.push(name, path, metrics={"mAP": 0.4})
    assert first.transfer.total == path.stat().st_size
    assert first.transfer.spared < 1000  # the header, which other models of this test run share
    assert (again.number, again.created, again.transfer.moved) == (1, False, 0)
    assert again.transfer.spared == path.stat().st_size
    assert again.metrics == {"mAP": 0.4}


def test_new_takes_a_number_of_its_own(client, name, weights):
    path = weights()
    client.push(name, path)
    again = client.push(name, path, new=True)
    assert (again.number, again.created, again.transfer.moved) == (2, True, 0)


def test_only_what_changed_is_sent(client, name, weights):
    client.push(name, weights(seed=21))
    head = np.ones((80, 100), np.float32)
    tuned = client.push(name, weights(seed=21, **{"head.weight": head}), parents=[f"{name}:1"])
    assert tuned.created
    assert tuned.transfer.moved < tuned.transfer.total * 0.1


def test_a_directory_gives_its_files_relative_to_itself(client, name, tmp_path):
    folder = tmp_path / "run"
    for path, content in {"a.txt": b"a", "deep/er/b.bin": b"b" * 100, "empty": b"", ".hidden": b"h"}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    version = client.push(name, [folder, _file(tmp_path / "extra.md", b"# hello")])
    assert {each.path: each.size for each in version.artifacts} == {
        ".hidden": 1, "a.txt": 1, "deep/er/b.bin": 100, "empty": 0, "extra.md": 7,
    }  # fmt: skip


def test_the_notes_of_a_pull_are_not_pushed(tmp_path):
    _file(tmp_path / "d/.registry/manifest.json", b"{}")
    _file(tmp_path / "d/a.txt", b"a")
    assert [source.artifact for source in sources([tmp_path / "d"])] == ["a.txt"]


def test_a_link_is_followed_inside_the_directory_only(tmp_path):
    _file(tmp_path / "d/a.txt", b"a")
    (tmp_path / "d/b.txt").symlink_to("a.txt")
    (tmp_path / "d/loop").symlink_to(".")
    assert [source.artifact for source in sources([tmp_path / "d"])] == ["a.txt", "b.txt"]
    _file(tmp_path / "secret", b"s")
    (tmp_path / "d/c.txt").symlink_to("../secret")
    with pytest.raises(registry.LocalError) as caught:
        sources([tmp_path / "d"])
    assert caught.value.code == "LINK_OUTSIDE"


def test_a_link_that_was_named_itself_is_followed(tmp_path):
    _file(tmp_path / "blobs/abc", b"weights")
    (tmp_path / "best.bin").symlink_to(tmp_path / "blobs/abc")
    (source,) = sources([tmp_path / "best.bin"])
    assert (source.artifact, source.size) == ("best.bin", 7)


@pytest.mark.parametrize("make", ["missing", "empty directory", "fifo"])
def test_what_is_no_file_is_refused_by_name(tmp_path, make):
    path = tmp_path / "thing"
    if make == "empty directory":
        path.mkdir()
    elif make == "fifo":
        path.mkdir()
        os.mkfifo(path / "pipe")
    with pytest.raises(registry.LocalError) as caught:
        offline().push("yolo", path)
    assert str(path) in str(caught.value)


def test_two_files_of_one_name_collide(tmp_path):
    with pytest.raises(registry.InvalidError) as caught:
        offline().push("yolo", [_file(tmp_path / "a/model.bin", b"1"), _file(tmp_path / "b/Model.bin", b"2")])
    assert caught.value.code == "PATH_COLLISION"


def test_a_broken_safetensors_file_is_refused_by_name_before_anything_is_sent(tmp_path, weights):
    whole = weights().read_bytes()
    with pytest.raises(SafetensorsTruncatedError, match=r"cut\.safetensors"):
        offline().push("yolo", _file(tmp_path / "cut.safetensors", whole[:-1]))


def test_an_incomplete_sharded_checkpoint_is_refused_before_anything_is_sent(tmp_path, weights):
    weights("model-00001-of-00002.safetensors")
    index = b'{"weight_map": {"head.bias": "model-00002-of-00002.safetensors"}}'
    _file(tmp_path / "weights/model.safetensors.index.json", index)
    with pytest.raises(ShardMissingError):
        offline().push("yolo", tmp_path / "weights")


@pytest.mark.parametrize(
    "facts",
    [
        {"metrics": {"mAP": float("nan")}},
        {"params": {"f": object()}},
        {"params": {"lr": float("inf")}},
        {"tags": {"a=b": "c"}},
        {"aliases": ["v7"]},
        {"variant": "Not Allowed"},
        {"parents": ["nonsense=yolo:1"]},
    ],
)
def test_facts_that_would_be_refused_later_are_refused_at_once(facts, weights):
    with pytest.raises(registry.InvalidError):
        offline().push("yolo", weights(), **facts)


def test_a_parent_that_does_not_exist_is_refused_before_anything_is_sent(client, name, weights):
    before = client.storage().stored_bytes
    with pytest.raises(registry.NotFoundError):
        client.push(name, weights(seed=99), parents=[f"{name}:7"])
    assert client.storage().stored_bytes == before


def test_a_parent_by_stage_is_the_version_it_means_now(client, name, weights):
    client.promote(client.push(name, weights(seed=1)), to="production")
    child = client.push(name, weights(seed=2), parents=[f"{name}@production"])
    assert [parent.ref for parent in child.parents] == [f"{name}:1"]


def test_progress_reaches_the_end(client, name, weights):
    seen: dict[str, tuple[int, int]] = {}
    path = weights(seed=31)
    client.push(name, path, progress=lambda phase, done, total: seen.update({phase: (done, total)}))
    assert seen["send"][0] == seen["send"][1] > path.stat().st_size * 0.99
    assert seen["hash"][0] >= path.stat().st_size


def test_many_small_files_are_one_version(client, name, tmp_path):
    for number in range(120):
        _file(tmp_path / f"many/{number:04}.txt", b"%d" % number)
    assert len(client.push(name, tmp_path / "many").artifacts) == 120


def test_an_upload_that_expires_in_the_middle_is_begun_anew(client, name, weights, monkeypatch):
    expired: list[str] = []
    answers = _push._Push._answers

    def answering(self, segments):
        found = answers(self, segments)
        if not expired:
            expired.append(self._upload)
            client._api.do("DELETE", f"/uploads/{self._upload}")
        return found

    monkeypatch.setattr(_push._Push, "_answers", answering)
    version = client.push(name, weights(seed=41))
    assert expired
    assert version.number == 1


@pytest.mark.parametrize("new", [False, True])
def test_a_commit_whose_answer_is_lost_publishes_once(client, name, weights, monkeypatch, new):
    lost: list[str] = []
    send = client._api._http.send

    def sending(request, **options):
        response = send(request, **options)
        if request.url.path.endswith("/commit") and not lost:
            lost.append(request.url.path)
            raise httpx2.ReadError("the answer never came")
        return response

    monkeypatch.setattr(client._api._http, "send", sending)
    version = client.push(name, weights(seed=71), new=new)
    assert lost
    assert (version.number, [each.number for each in client.versions(name)]) == (1, [1])


def test_two_pushes_of_the_same_file_at_once_are_one_version(live, name, weights):
    path, found = weights(seed=51), []

    def push() -> None:
        with live.client() as client:
            found.append(client.push(name, path))

    threads = [threading.Thread(target=push) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {version.number for version in found} == {1}
    assert sum(bool(version.created) for version in found) == 1


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.3, 0.6])
def test_a_killed_push_is_completed_by_repeating_it(client, live, name, tmp_path, delay):
    path = _file(tmp_path / "large.bin", os.urandom(48 << 20))
    code = f"import registry; registry.connect({live.url!r}, {TOKEN!r}).push({name!r}, {str(path)!r}); print('done')"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    _wait_for_first_bytes(client, process)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pytest.raises(registry.NotFoundError):
        client.resolve(f"{name}:2")
    version = client.push(name, path)
    assert version.number == 1
    assert client.pull(version.ref, tmp_path / "back", verify_file=True)
    assert client.push(name, path).transfer.moved == 0


def test_a_push_survives_a_restart_of_the_server(s3_config, tmp_path):
    path = _file(tmp_path / "large.bin", os.urandom(32 << 20))
    failed: list[BaseException] = []
    with live_registry(tmp_path / "registry", s3_config) as own, own.client() as client:
        client.whoami()

        def push() -> None:
            try:
                client.push("yolo", path)
            except BaseException as error:  # noqa: BLE001 - told to the test
                failed.append(error)

        thread = threading.Thread(target=push)
        thread.start()
        time.sleep(0.2)
        own.stop()
        own.start()
        thread.join()
        assert failed == []
        assert client.resolve("yolo").number == 1


def _wait_for_first_bytes(client: registry.Client, process: "subprocess.Popen[bytes]") -> None:
    before = client.storage().objects
    until = time.monotonic() + 20
    while process.poll() is None and client.storage().objects == before and time.monotonic() < until:
        time.sleep(0.02)


def _file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
