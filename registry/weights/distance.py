"""How far apart two arrays are, from a window of both at a time, so that nobody ever holds a whole tensor.

    relative L2    ‖b − a‖ / ‖a‖
    cosine         a·b / (‖a‖ ‖b‖)
    max abs        the largest |b − a|
    equal          elements with the same bits; where the dtypes differ, with the same value

Sums are of float64; integers are compared as integers. Arrays with NaN or infinities have only `equal`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import isfinite, sqrt
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from registry.weights.arrays import as_array
from registry.weights.diff import Distance
from registry.weights.tensors import BITS, Tensor

Array = np.ndarray[Any, np.dtype[Any]]
Buffer = bytes | bytearray | memoryview

# Elements at a time: a dozen arrays of them fit into a core's cache, and BLAS starts its own threads beyond 10,000.
_BLOCK: Final = 8192

_FLOATS: Final = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"})
_INTEGERS: Final[Mapping[str, str]] = MappingProxyType(
    {"BOOL": "u1", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4"}
)
_WIDE: Final = frozenset({"U64", "I64"})
_COMPLEX: Final = "C64"


@dataclass(frozen=True, slots=True)
class Sums:
    """What is summed over the elements of two arrays; sums of parts add up to that of the whole."""

    element_count: int = 0
    equal_count: int = 0
    max_abs: float = 0.0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    dd: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.element_count + other.element_count,
            self.equal_count + other.equal_count,
            max(self.max_abs, other.max_abs),
            self.aa + other.aa,
            self.bb + other.bb,
            self.ab + other.ab,
            self.dd + other.dd,
        )

    def distance(self) -> Distance:
        """The figures that are kept."""
        if not all(map(isfinite, (self.max_abs, self.aa, self.bb, self.ab, self.dd))):
            return Distance(self.element_count, self.equal_count, None, None, None)
        relative = sqrt(self.dd / self.aa) if self.aa else (None if self.dd else 0.0)
        norms = sqrt(self.aa) * sqrt(self.bb)
        cosine = max(-1.0, min(1.0, self.ab / norms)) if norms else None
        return Distance(self.element_count, self.equal_count, self.max_abs, relative, cosine)


def is_measurable(a: str, b: str) -> bool:
    """Whether arrays of these dtypes can be compared element by element: of one dtype, or both of floats."""
    if a == b:
        return a in _FLOATS or a in _INTEGERS or a in _WIDE or a == _COMPLEX
    return a in _FLOATS and b in _FLOATS


def item_size(dtype: str) -> int:
    """Bytes of one element of a dtype that can be measured."""
    return BITS[dtype] // 8


def measure(a: Buffer, b: Buffer, /, *, a_dtype: str, b_dtype: str) -> Sums:
    """The sums over two windows of as many elements. Raises ValueError if they have not, or cannot be measured."""
    if not is_measurable(a_dtype, b_dtype):
        raise ValueError(f"{a_dtype} and {b_dtype} cannot be compared element by element")
    count = memoryview(a).nbytes // item_size(a_dtype)
    if count != memoryview(b).nbytes // item_size(b_dtype):
        raise ValueError("the windows differ in length")
    left, right = _bits(a, a_dtype), _bits(b, b_dtype)
    block = _integers if a_dtype in _WIDE else _complex if a_dtype == _COMPLEX else _floats
    total = Sums()
    with np.errstate(all="ignore"):  # what is not finite, or overflows, is found in the sums
        for start in range(0, count, _BLOCK):
            total += block(left[start : start + _BLOCK], right[start : start + _BLOCK], a_dtype, b_dtype)
    return total


def _floats(left: Array, right: Array, a_dtype: str, b_dtype: str) -> Sums:
    a = _decoder(a_dtype)(left)
    count = equal = len(a)
    if a_dtype == b_dtype:
        equal = int(np.count_nonzero(left == right))
        if equal == count:
            square = float(np.dot(a, a))
            return Sums(count, count, 0.0, square, square, square, 0.0)
    b = _decoder(b_dtype)(right)
    if a_dtype != b_dtype:
        equal = int(np.count_nonzero((a == b) | (np.isnan(a) & np.isnan(b))))
    aa, bb, ab = float(np.dot(a, a)), float(np.dot(b, b)), float(np.dot(a, b))
    np.subtract(b, a, out=b)
    return Sums(count, equal, float(max(b.max(), -b.min())), aa, bb, ab, float(np.dot(b, b)))


def _complex(left: Array, right: Array, _a_dtype: str, _b_dtype: str) -> Sums:
    """As vectors of the real and the imaginary parts, except that the largest difference is that of whole elements."""
    a, b = left.view("<f4").astype(np.float64), right.view("<f4").astype(np.float64)
    d = b - a
    equal = int(np.count_nonzero(left == right))
    largest = float(np.hypot(d[0::2], d[1::2]).max())
    return Sums(
        len(left), equal, largest, float(np.dot(a, a)), float(np.dot(b, b)), float(np.dot(a, b)), float(np.dot(d, d))
    )


def _integers(left: Array, right: Array, dtype: str, _b_dtype: str) -> Sums:
    """Differences of 64-bit integers, which no float holds, as unsigned ones: their wrap-around is exact."""
    view = "<i8" if dtype == "I64" else "<u8"
    a, b = left.view(view), right.view(view)
    apart = np.where(a > b, left - right, right - left)
    x, y, d = a.astype(np.float64), b.astype(np.float64), apart.astype(np.float64)
    equal = int(np.count_nonzero(left == right))
    return Sums(
        len(left),
        equal,
        float(int(apart.max())),
        float(np.dot(x, x)),
        float(np.dot(y, y)),
        float(np.dot(x, y)),
        float(np.dot(d, d)),
    )


def _bits(buffer: Buffer, dtype: str) -> Array:
    """The elements as unsigned integers of their width."""
    return np.frombuffer(buffer, f"<u{item_size(dtype)}")


@cache
def _decoder(dtype: str) -> Callable[[Array], Array]:
    """What makes float64 of some elements, exactly."""
    if dtype in _INTEGERS:
        kind = _INTEGERS[dtype]
        return lambda bits: bits.view(kind).astype(np.float64)
    if dtype == "BF16":
        return _of_bfloat16
    if dtype in ("F16", "F32", "F64"):
        kind = f"<f{item_size(dtype)}"
        return lambda bits: bits.view(kind).astype(np.float64)
    table = as_array(Tensor("", dtype, (256,), 0, 256), bytes(range(256))).astype(np.float64)
    return lambda bits: table[bits]


def _of_bfloat16(bits: Array) -> Array:
    wide = bits.astype(np.uint32)
    wide <<= 16
    floats: Array = wide.view(np.float32).astype(np.float64)
    return floats
