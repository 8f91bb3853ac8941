"""Whatever a file does to the worker that looks into it, the next file is looked into all the same."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from registry.weights import confined, formats, sharded
from registry.weights.confined import MEMORY_BYTES, PROCESSES, Workers
from registry.weights.errors import (
    GgufNameError,
    GgufTruncatedError,
    SafetensorsError,
    ShardIndexInvalidError,
    WeightsTooComplexError,
)
from registry.weights.gguf import MAX_HEADER
from tests.support import ROOT
from tests.weights import gguf_file, onnx_file, torch_archive

ReadAt = Callable[[int, int], bytes]


def reader(data: bytes) -> ReadAt:
    return lambda offset, length: data[offset : offset + length]


def safe(count: int) -> bytes:
    entries = {f"layer.{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(count)}
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(count)


def slow() -> bytes:
    """A valid file that takes about a second of processor time."""
    unit = struct.pack("<IQ", gguf_file.U8, 0)
    count = (MAX_HEADER - 1000) // len(unit)
    array = gguf_file.text("a") + struct.pack("<IIQ", gguf_file.ARRAY, gguf_file.ARRAY, count) + unit * count
    return gguf_file.gguf(pairs=[array])


def large() -> bytes:
    """A valid file that takes about 80 MB."""
    entries = [gguf_file.Entry(f"blk.{i}.ffn_gate_exps.weight", (8,), 0, 32 * i) for i in range(100_000)]
    return gguf_file.gguf(entries, body=bytes(32 * 100_000))


SMALL = gguf_file.sample()


def ask(workers: Workers, data: bytes, read: ReadAt | None = None) -> dict[str, Any]:
    return workers.ask({"what": "facts", "path": "m.gguf", "size": len(data)}, read or reader(data))


def assert_works(workers: Workers) -> None:
    assert len(ask(workers, SMALL)["tensors"]) == 4


@pytest.fixture
def make_workers() -> Iterator[Callable[..., Workers]]:
    made: list[Workers] = []

    def make(**limits: Any) -> Workers:
        made.append(Workers(**limits))
        return made[-1]

    yield make
    for workers in made:
        workers.end()
        assert not workers.pids


@pytest.fixture
def workers(make_workers, monkeypatch) -> Workers:
    """Those that `confined` uses in this test."""
    made: Workers = make_workers()
    monkeypatch.setattr(confined, "_WORKERS", made)
    return made


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("m.gguf", SMALL),
        ("m.onnx", onnx_file.sample(elsewhere=True)),
        ("m.pt", torch_archive.sample()),
        ("m.safetensors", safe(5000)),
        ("m.gguf", gguf_file.gguf(version=1)),
        ("m.gguf", large()),
    ],
)
def test_a_worker_finds_what_is_found_here(workers, path, data) -> None:
    assert confined.facts(path, len(data), reader(data)) == formats.facts(path, len(data), reader(data))


def test_what_is_small_and_quick_starts_no_worker(workers) -> None:
    data = safe(1000)
    assert confined.facts("m.safetensors", len(data), reader(data)).header.tensors
    assert confined.facts("notes.txt", 4, reader(b"text")).format == "opaque"
    index = b'{"weight_map": {"a": "x.safetensors"}}'
    assert confined.index("m.safetensors.index.json", len(index), reader(index)).shards == ("x.safetensors",)
    with pytest.raises(SafetensorsError):
        confined.facts("m.safetensors", 9, reader(bytes(9)))
    assert not workers.pids
    data = safe(20_000)
    assert len(confined.facts("m.safetensors", len(data), reader(data)).header.tensors) == 20_000
    assert len(workers.pids) == 1


def test_an_error_comes_back_as_what_it_was(workers) -> None:
    data = gguf_file.gguf([gguf_file.Entry(b"\xff", (1,), 0, 0)])
    with pytest.raises(GgufNameError) as here:
        formats.facts("m.gguf", len(data), reader(data))
    with pytest.raises(GgufNameError) as there:
        confined.facts("m.gguf", len(data), reader(data))
    assert str(there.value) == str(here.value)
    assert (there.value.remedy, there.value.details) == (here.value.remedy, here.value.details)


def test_a_large_index_is_read_by_a_worker(workers) -> None:
    names = {f"model.layers.{i}.weight": f"model-{i % 20:05}.safetensors" for i in range(100_000)}
    data = json.dumps({"metadata": {"total_size": 7}, "weight_map": names}).encode()
    assert confined.index("m.json", len(data), reader(data)) == sharded.Index(names, 7)
    assert workers.pids
    with pytest.raises(ShardIndexInvalidError):
        confined.index("m.json", len(data) - 1, reader(data[:-1]))


def test_a_worker_is_kept_for_the_next_file(workers) -> None:
    pids = set()
    for _ in range(50):
        assert_works(workers)
        pids |= set(workers.pids)
    assert len(pids) == 1


def test_a_file_that_takes_too_long_is_refused_and_the_next_is_read(make_workers) -> None:
    workers = make_workers(seconds=0.3)
    with pytest.raises(WeightsTooComplexError, match=r"m\.gguf"):
        ask(workers, slow())
    assert_works(workers)


def test_a_file_that_takes_too_much_memory_is_refused_and_the_next_is_read(make_workers) -> None:
    workers = make_workers(memory=40 * 2**20)
    with pytest.raises(WeightsTooComplexError, match="256 MB"):
        ask(workers, large())
    assert_works(workers)


def test_a_worker_that_was_killed_between_two_files_is_replaced(workers) -> None:
    assert_works(workers)
    (pid,) = workers.pids
    os.kill(pid, signal.SIGKILL)
    assert_works(workers)
    assert workers.pids != [pid]


def test_a_worker_that_was_killed_within_a_file_is_not_the_files_fault(workers) -> None:
    killed: list[int] = []

    def read(offset: int, length: int) -> bytes:
        if not killed:
            killed.extend(workers.pids)
            os.kill(killed[0], signal.SIGKILL)
        return SMALL[offset : offset + length]

    assert len(ask(workers, SMALL, read)["tensors"]) == 4
    assert killed


def test_a_store_that_fails_is_told_as_it_is_and_the_next_file_is_read(workers) -> None:
    def read(_offset: int, _length: int) -> bytes:
        raise PermissionError("the store is closed")

    with pytest.raises(PermissionError):
        ask(workers, SMALL, read)
    assert_works(workers)


def test_a_read_that_comes_short_is_the_files_error(workers) -> None:
    with pytest.raises(GgufTruncatedError):
        confined.facts("m.gguf", 10_000, reader(SMALL[:100]))
    assert_works(workers)


def test_many_threads_share_few_workers(workers) -> None:
    most = 0

    def work(_turn: int) -> None:
        nonlocal most
        assert_works(workers)
        most = max(most, len(workers.pids))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(300)))
    assert 1 <= most <= PROCESSES


def test_a_worker_knows_no_secret_and_no_file(workers, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    (tmp_path / "open").write_text("x")
    descriptor = os.open(tmp_path / "open", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        assert_works(workers)
        (pid,) = workers.pids
        folder = Path(f"/proc/{pid}")
        names = {line.partition(b"=")[0] for line in (folder / "environ").read_bytes().split(b"\0") if line}
        assert names == {b"PYTHONPATH", b"PYTHONDONTWRITEBYTECODE"}
        links = {each.name: str(each.readlink()) for each in (folder / "fd").iterdir()}
        assert links.pop("0").startswith("socket:")
        assert links == {"1": "/dev/null", "2": "/dev/null"}
        limits = (folder / "limits").read_text()
        allowed = int(next(line.split()[3] for line in limits.splitlines() if line.startswith("Max address space")))
        assert MEMORY_BYTES < allowed < 300 * 2**20
    finally:
        os.close(descriptor)


STARTS = """
import os, signal, sys
from registry.weights import confined
from tests.weights.gguf_file import sample
data = sample()
def look():
    assert confined.facts("m.gguf", len(data), lambda offset, length: data[offset : offset + length]).header.tensors
look()
print(*confined._WORKERS.pids, flush=True)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", STARTS + code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), signal.SIGKILL)", "os._exit(1)"])
def test_a_worker_ends_with_the_process_that_started_it(end) -> None:
    done = run(end)
    pid = int(done.stdout)
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_forked_process_starts_a_worker_of_its_own_and_leaves_the_other_alone() -> None:
    done = run(
        "before = confined._WORKERS.pids\n"
        "child = os.fork()\n"
        "look()\n"
        "assert (confined._WORKERS.pids == before) == (child != 0)\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    look()\n"
        "    assert confined._WORKERS.pids == before\n"
    )
    assert done.returncode == 0, done.stderr


def test_other_threads_go_on_while_a_worker_works(workers) -> None:
    data = slow()
    thread = threading.Thread(target=lambda: ask(workers, data))
    thread.start()
    longest, last = 0.0, time.monotonic()
    while thread.is_alive():
        time.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    assert longest < 0.5
