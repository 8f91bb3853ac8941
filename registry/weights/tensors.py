"""What every format comes down to: named arrays that lie somewhere in a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

BITS = MappingProxyType(
    {
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "BOOL": 8,
        "U8": 8,
        "I8": 8,
        "F8_E4M3": 8,
        "F8_E5M2": 8,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8,
        "U16": 16,
        "I16": 16,
        "F16": 16,
        "BF16": 16,
        "U32": 32,
        "I32": 32,
        "F32": 32,
        "U64": 64,
        "I64": 64,
        "F64": 64,
        "C64": 64,
    }
)
"""Bits of one element by dtype, for the dtypes of safetensors 0.8. Other formats add block types of their own."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of a file: `size` bytes at `offset`, counted from the start of the file, elements in C order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """A named range of a file that is worth cutting at: the same name and bytes may come back in another version."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself: its tensors by offset, free text, and where to cut it.

    `size` is how many of the first bytes describe the rest. Tensors never overlap, but other bytes may lie between
    them. `parts` replaces the tensors as the places to cut at, by offset, where a format has better ones.
    `elsewhere` has tensors that lie in other files of the version, by path relative to this file's folder.
    """

    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]
    size: int
    parts: tuple[Part, ...] | None = None
    elsewhere: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
