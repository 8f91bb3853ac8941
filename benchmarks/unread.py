"""Files of formats that are not read: what fixed cuts and cuts by content cost and save. The table behind ADR 0014.

MiniLM's weights as an archive of numpy, a pickle and a tar, and a data set of lines, each with what becomes of such
files. Sizes do not depend on the machine; processor time is of the search for cuts alone, the file being in memory.
"""

import io
import json
import pickle
import tarfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from pyfastcdc import FastCDC
from safetensors.numpy import load_file

from benchmarks.demo import HEAD, real_weights
from benchmarks.report import Report, Target
from registry.weights import contents

Weights = dict[str, np.ndarray[Any, Any]]
Cut = Callable[[bytes], list[int]]
"""The lengths of the segments of a file."""

_KB, _MB = 1 << 10, 1 << 20
_LINES = 60_000
LIMIT_S = 0.5
"""Of a push's 2.6 s of processor time a GiB, hashing takes 1.34 and sending 0.36."""


def _fixed(data: bytes) -> list[int]:
    return [len(data[start : start + 4 * _MB]) for start in range(0, len(data), 4 * _MB)]


def _by_content(least: int, mean: int, most: int) -> Cut:
    def cut(data: bytes) -> list[int]:
        chunker = FastCDC(mean, min_size=least, max_size=most, normalized_chunking=2)
        return [chunk.length for chunk in chunker.cut_buf(data)]

    return cut


def _ours(data: bytes) -> list[int]:
    return [span.size for span in contents.cut(len(data), io.BytesIO(data).readinto)]


CHOICES: dict[str, Cut] = {
    "ours": _ours,
    "fixed 4 MiB": _fixed,
    "16, 64, 256 KiB": _by_content(16 * _KB, 64 * _KB, 256 * _KB),
    "128, 256, 1,024 KiB": _by_content(128 * _KB, 256 * _KB, _MB),
    "0.5, 1, 4 MiB": _by_content(512 * _KB, _MB, 4 * _MB),
    "1, 2, 8 MiB": _by_content(_MB, 2 * _MB, 8 * _MB),
    "1, 4, 16 MiB": _by_content(_MB, 4 * _MB, 16 * _MB),
}


def measure(folder: Path, *, full: bool) -> Report:
    """Every choice on every file. Full and small are the same."""
    del folder, full
    changes = ("last changed", "one more in front", "largest grown", "reversed")
    report = Report(
        "new bytes after the first version, % of the file, by how it is cut", ("", "cut", "records", "s/GiB", *changes)
    )
    slowest = 0.0
    for kind, make in KINDS.items():
        first, *others = list(make())
        for name, cut in CHOICES.items():
            began = time.process_time()
            lengths = cut(first)
            taken = (time.process_time() - began) * (1 << 30) / len(first)
            slowest = max(slowest, taken if name == "ours" else 0)
            known = _digests(first, cut)
            shares = [f"{_new(other, cut, known):.2f}" for other in others]
            report.rows.append((kind, name, str(len(lengths)), f"{taken:.2f}", *shares))
    report.targets.append(Target("search for cuts, CPU s/GiB, the slowest", slowest, LIMIT_S, at_least=False))
    return report


def _digests(data: bytes, cut: Cut) -> dict[bytes, int]:
    found, start = {}, 0
    for length in cut(data):
        found[sha256(data[start : start + length]).digest()] = length
        start += length
    return found


def _new(data: bytes, cut: Cut, known: dict[bytes, int]) -> float:
    fresh = sum(length for digest, length in _digests(data, cut).items() if digest not in known)
    return 100 * fresh / len(data)


def _versions() -> Iterator[Weights]:
    base: Weights = load_file(real_weights())
    random = np.random.default_rng(7)
    yield base
    yield {
        name: each + random.standard_normal(each.shape, dtype=np.float32) * np.float32(1e-3)
        if name.startswith(HEAD)
        else each
        for name, each in base.items()
    }
    yield {"added": np.arange(700, dtype=np.float32)} | base
    largest = max(base, key=lambda name: base[name].nbytes)
    more = random.standard_normal((64, base[largest].shape[1]), dtype=np.float32)
    yield base | {largest: np.concatenate([base[largest], more])}
    yield dict(reversed(base.items()))


def _numpy() -> Iterator[bytes]:
    for weights in _versions():
        file = io.BytesIO()
        np.savez(file, **weights)  # type: ignore[arg-type]
        yield file.getvalue()


def _pickles() -> Iterator[bytes]:
    for weights in _versions():
        yield pickle.dumps(weights, protocol=5)


def _tars() -> Iterator[bytes]:
    """Behind a description that has another length every time."""
    for number, weights in enumerate(_versions()):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, data in (
                ("config.json", json.dumps({"runs": [number] * 400 * number}).encode()),
                ("weights.bin", b"".join(each.tobytes() for each in weights.values())),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        yield file.getvalue()


def _lines() -> Iterator[bytes]:
    random = Random(3)
    letters = "abcdefghijklmnopqrstuvwxyz "
    lines = [json.dumps({"id": number, "text": "".join(random.choices(letters, k=900))}) for number in range(_LINES)]
    for version in (
        lines,
        [*lines[:-1], lines[0]],
        ["{}", *lines],
        [*lines[: _LINES // 2], *lines[:70], *lines[_LINES // 2 :]],
        lines[::-1],
    ):
        yield "\n".join(version).encode()


KINDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "npz": _numpy,
    "pickle": _pickles,
    "tar": _tars,
    "lines": _lines,
}
