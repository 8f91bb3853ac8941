"""Damaged and hostile files of each format: facts or a refusal, never anything else, and in bounds.

Every file is looked into by a real worker, whose processor time and peak memory are read from the kernel; and where it
can be, beside the worker too: both must say the same. What is accepted must be true of the file. `make soak` tries
3,000 files of each format; the seed of the run that failed is in the name of the test.
"""

import json
import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from safetensors import SafetensorError, deserialize

from registry.domain.errors import WeightsError
from registry.weights import sharded
from registry.weights.confined import Workers
from registry.weights.confined_worker import as_facts
from registry.weights.formats import Facts
from registry.weights.gguf import MAX_HEADER
from registry.weights.tensors import Header
from tests.weights import gguf_file, onnx_file
from tests.weights.mutations import VALID, here, mutated

MAX_SECONDS = 5.0
MAX_KB = 256_000
_TICK = os.sysconf("SC_CLK_TCK")
FORMATS = sorted(VALID)


@dataclass
class Cost:
    """The most that one file took of a worker."""

    seconds: float = 0.0
    kilobytes: int = 0


class Measured:
    """Workers whose every job is measured; there is one of them at a time, since jobs come one after the other."""

    def __init__(self, workers: Workers) -> None:
        self.workers, self.cost = workers, Cost()

    def __call__(self, path: str, data: bytes) -> object:
        """What the file is, or the refusal."""
        before = {pid: self._begin(pid) for pid in self.workers.pids}
        job = {"what": "index" if sharded.is_index(path) else "facts", "path": path, "size": len(data)}
        try:
            found = self.workers.ask(job, lambda offset, size: data[offset : offset + size])
        except WeightsError as error:
            return type(error), str(error)
        finally:
            for pid in self.workers.pids:
                self._end(pid, before.get(pid, 0.0))
        return found

    def _begin(self, pid: int) -> float:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # forget the peak of memory so far
        return _seconds(pid)

    def _end(self, pid: int, before: float) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        self.cost.seconds = max(self.cost.seconds, _seconds(pid) - before)
        self.cost.kilobytes = max(self.cost.kilobytes, peak)


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


@pytest.fixture
def measured() -> Iterator[Measured]:
    workers = Workers()
    yield Measured(workers)
    workers.end()


def assert_true_of(header: Header, size: int) -> None:
    """Tensors are in the file, in order, apart, and as long as they must be."""
    assert 0 <= header.size <= size
    end = 0
    for tensor in header.tensors:
        assert tensor.offset >= end or not tensor.size
        end = max(end, tensor.offset + tensor.size)
    assert end <= size
    assert all(tensor.name for tensor in header.tensors)
    for part in header.parts or ():
        assert 0 <= part.offset <= part.offset + part.size <= size
    assert "\0" not in json.dumps(header.metadata, ensure_ascii=False)


def assert_the_reference_agrees(data: bytes) -> None:
    try:
        deserialize(data)
    except SafetensorError as error:  # pragma: no cover - the rule that must hold
        pytest.fail(f"accepted, but the reference says {error}")


def check(path: str, data: bytes, measured: Measured) -> str:
    found, expected = measured(path, data), here(path, data)
    if isinstance(found, tuple):
        assert found == expected
        return "refused"
    if isinstance(expected, Facts):
        assert isinstance(found, dict)
        assert as_facts(found) == expected
        assert_true_of(expected.header, len(data))
        if path.endswith(".safetensors"):
            assert_the_reference_agrees(data)
    else:
        assert found == expected
    return "accepted"


SHORT = pytest.param(150, id="short")
LONG = pytest.param(3_000, id="full", marks=[pytest.mark.soak, pytest.mark.timeout(1800)])


@pytest.mark.parametrize("path", FORMATS)
@pytest.mark.parametrize("count", [SHORT, LONG])
def test_a_mutated_file_is_refused_or_true_and_costs_little(path, count, measured) -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(count):
        data = mutated(VALID[path], Random(f"{path} {seed}"))
        try:
            verdicts[check(path, data, measured)] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    print(f"{path}: {dict(verdicts)}, at most {measured.cost.seconds:.2f} s and {measured.cost.kilobytes:,} kB")
    # What ends in `.pt` counts as a pickle whatever it holds, so nothing of that name is refused.
    assert verdicts["refused"] == 0 if path.endswith(".pt") else verdicts["refused"] > count // 5
    assert measured.cost.seconds <= MAX_SECONDS
    assert measured.cost.kilobytes <= MAX_KB


@pytest.mark.parametrize("path", FORMATS)
def test_the_file_that_is_mutated_is_valid(path, measured) -> None:
    assert check(path, VALID[path], measured) == "accepted"


def costly(kind: str) -> tuple[str, bytes]:
    """A valid file that is as laborious as its format allows."""
    if kind == "tensors of gguf":
        entries = [gguf_file.Entry(f"{i:05}" + "x" * 100, (8,), 0, 32 * i) for i in range(100_000)]
        return "m.gguf", gguf_file.gguf(entries, body=bytes(32 * 100_000))
    if kind == "arrays of gguf":
        unit = struct.pack("<IQ", gguf_file.U8, 0)
        count = (MAX_HEADER - 1000) // len(unit)
        array = gguf_file.text("a") + struct.pack("<IIQ", gguf_file.ARRAY, gguf_file.ARRAY, count) + unit * count
        return "m.gguf", gguf_file.gguf(pairs=[array])
    if kind == "tensors of onnx":
        return "m.onnx", onnx_file.model(*[onnx_file.tensor(f"w{i}", (1,), raw=bytes(4)) for i in range(100_000)])
    if kind == "nodes of onnx":
        return "m.onnx", onnx_file.model(graph=onnx_file.block(1, b"") * 990_000)
    if kind == "shards":
        names = {f"w.{i}.b": f"m-{i % 9}.safetensors" for i in range(1_000_000)}
        return "m.safetensors.index.json", json.dumps({"weight_map": names}, separators=(",", ":")).encode()
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({f"{i}😀" + "é" * 28: entry for i in range(99_990)}, ensure_ascii=False).encode()
    return "m.safetensors", len(text).to_bytes(8, "little") + text


@pytest.mark.soak
@pytest.mark.parametrize(
    "kind",
    ["tensors of gguf", "arrays of gguf", "tensors of onnx", "nodes of onnx", "shards", "tensors of safetensors"],
)
def test_the_most_laborious_files_cost_less_than_is_allowed(kind, measured) -> None:
    path, data = costly(kind)
    measured("m.gguf", gguf_file.sample())  # starts the worker
    found = measured(path, data)
    print(f"{kind}: {measured.cost.seconds:.2f} s and {measured.cost.kilobytes:,} kB for {len(data):,} bytes")
    assert not isinstance(found, tuple), found
    assert measured.cost.seconds <= MAX_SECONDS
    assert measured.cost.kilobytes <= MAX_KB
