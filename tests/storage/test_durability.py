import os
import shutil
import threading
import time
from dataclasses import replace

import pytest

from registry.storage import durability
from registry.storage.durability import Flusher
from registry.storage.s3 import StorageFullError, Store, StoreConfig


@pytest.fixture
def flushed(monkeypatch):
    seen = []
    real = durability._flush

    def record(path):
        seen.append(os.path.basename(path))  # noqa: PTH119 - as the flusher sees them, plain strings
        return real(path)

    monkeypatch.setattr(durability, "_flush", record)
    return seen


def test_only_what_changed_is_flushed_and_files_before_their_folder(tmp_path, flushed):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    flusher = Flusher(tmp_path)
    flusher.flush()
    assert flushed.index("a") < flushed.index("inner") < flushed.index(tmp_path.name)
    assert "b" in flushed
    flushed.clear()
    flusher.flush()
    assert flushed == []
    with (tmp_path / "b").open("ab") as file:
        file.write(b"more")
    flusher.flush()
    assert flushed == ["b"]


def test_a_file_that_vanishes_and_one_that_is_no_file_are_skipped(tmp_path, monkeypatch):
    (tmp_path / "gone").write_bytes(b"1")
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    listed = durability._stamps(tmp_path)
    assert {os.path.basename(path) for path, _ in listed} == {"gone", tmp_path.name}  # noqa: PTH119
    (tmp_path / "gone").unlink()
    monkeypatch.setattr(durability, "_stamps", lambda _: listed)
    Flusher(tmp_path).flush()


def test_those_who_wait_together_share_one_flush(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"1")
    flusher = Flusher(tmp_path)
    walks = []
    real = durability._stamps

    def record(root):
        walks.append(root)
        return real(root)

    monkeypatch.setattr(durability, "_stamps", record)
    waiting = [threading.Thread(target=flusher.flush) for _ in range(16)]
    with flusher._turn:
        for thread in waiting:
            thread.start()
        time.sleep(0.2)  # until they all stand in line
    for thread in waiting:
        thread.join()
    assert len(walks) == 1


def test_a_store_elsewhere_needs_no_flush_and_is_never_called_full():
    store = Store(StoreConfig("weights", "http://127.0.0.1:1"))
    store.settle()
    store.require_room(1 << 60)


def test_a_store_on_this_machine_keeps_room_to_reclaim(tmp_path, monkeypatch):
    store = Store(StoreConfig("weights", "http://127.0.0.1:1", local_path=tmp_path))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=(2 << 30) + 100))
    store.settle()
    store.require_room(100)
    with pytest.raises(StorageFullError) as caught:
        store.require_room(101)
    assert caught.value.code == "STORAGE_FULL"


def test_what_a_live_store_acknowledged_is_flushed(s3_config, shared_folder, flushed):
    files = shared_folder / "seaweedfs/home/seaweedfs"
    store = Store(replace(s3_config, local_path=files))
    store.settle()
    flushed.clear()
    store.put("ns/1/aa/durable", b"x", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
    store.settle()
    assert any(name.endswith(".dat") for name in flushed)
    assert any(name.endswith(".log") for name in flushed)  # the filer's own journal: which key is which bytes
