"""What every format comes down to: named arrays that lie somewhere in a file."""

from dataclasses import dataclass
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
"""Bits of one element by dtype. The names are those of safetensors 0.8; no other is accepted."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of a file: `size` bytes at `offset`, counted from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """What the first `size` bytes of a file say about the rest: its tensors by offset, and free text."""

    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]
    size: int
