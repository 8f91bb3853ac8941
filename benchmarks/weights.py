"""Weights to measure with: a safetensors file of equal layers and a small head, of any size, the same for a seed.

The numbers are finite, spread over many exponents, and do not compress.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HEAD = "lm_head.weight"
ONE = "model.layers.1.attention.k.weight"
"""A tensor of 6 MiB somewhere in the file."""

_WIDTH = 3072
_MATRICES = ("attention.q", "attention.k", "attention.v", "attention.o", "mlp.gate", "mlp.up", "mlp.down")
_LARGE = 6 << 20
_SIZES = {"BF16": 2, "F32": 4}
# Without its highest bit an exponent is below the middle: no infinity, nothing that is not a number, nothing above 2.
_FINITE = {"BF16": 0xBFFF_BFFF_BFFF_BFFF, "F32": 0xBFFF_FFFF_BFFF_FFFF}


def write(path: Path, size: int, *, seed: int, dtype: str = "BF16") -> int:
    """Write a file of about `size` bytes, and return how many it has. Its head is a sixty-fourth of it."""
    header = _header(size, seed, dtype)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, (name, facts) in enumerate(header.items()):
            if name != "__metadata__":
                start, end = facts["data_offsets"]
                file.write(_values(end - start, seed, number, dtype))
        return file.tell()


def retrain_head(path: Path, *, seed: int, dtype: str = "BF16") -> int:
    """Give the file another head, in place, and return how many bytes that changed."""
    with path.open("r+b") as file:
        prefix = int.from_bytes(file.read(8), "little")
        start, end = json.loads(file.read(prefix))[HEAD]["data_offsets"]
        file.seek(8 + prefix + start)
        file.write(_values(end - start, seed, 0, dtype))
    return int(end - start)


def noise(path: Path, size: int, *, seed: int) -> None:
    """Write a file that is no weights: nothing in it repeats, and nothing says where to cut it."""
    path.write_bytes(np.random.Generator(np.random.SFC64(seed)).bytes(size))


def digests(path: Path) -> dict[str, str]:
    """The sha256 of each tensor of the file, by name."""
    found = {}
    with path.open("rb") as file:
        prefix = int.from_bytes(file.read(8), "little")
        for name, facts in json.loads(file.read(prefix)).items():
            if name != "__metadata__":
                start, end = facts["data_offsets"]
                file.seek(8 + prefix + start)
                found[name] = hashlib.sha256(file.read(end - start)).hexdigest()
    return found


def _values(size: int, seed: int, number: int, dtype: str) -> memoryview:
    random = np.random.Generator(np.random.SFC64([seed, number]))
    words = random.integers(0, 2**64, -(-size // 8), dtype=np.uint64)
    words &= np.uint64(_FINITE[dtype])
    return words.data.cast("B")[:size]


def _header(size: int, seed: int, dtype: str) -> dict[str, Any]:
    # The seed is in the header, so that no part of a file with another seed is stored already.
    header: dict[str, Any] = {"__metadata__": {"seed": str(seed)}}
    position = 0
    for name, shape in _tensors(size, _SIZES[dtype]):
        length = int(np.prod(shape)) * _SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + length]}
        position += length
    return header


def _tensors(size: int, item: int) -> Iterator[tuple[str, list[int]]]:
    head = max(_WIDTH * item, size // 64 // (_WIDTH * item) * (_WIDTH * item))
    for layer in range(max(2, (size - head) // (_LARGE * len(_MATRICES)))):
        for matrix in _MATRICES:
            yield f"model.layers.{layer}.{matrix}.weight", [_LARGE // item // _WIDTH, _WIDTH]
        for norm in ("norm.before", "norm.after"):
            yield f"model.layers.{layer}.{norm}.weight", [_WIDTH]
    yield HEAD, [head // item // _WIDTH, _WIDTH]
