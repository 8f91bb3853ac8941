"""Statistics of a tensor from its bytes as they come by: NaN, infinities, zeros, extremes, norm.

    meter = Meter("BF16", Workspace())
    for piece in pieces:  # cut anywhere, in order
        meter.add(piece)
    meter.statistics()

Elements are looked at in blocks that stay in the processor's cache, with memory that is allocated once. Nearly every
block is finite, which its extremes tell: only one that is not is looked at more closely. Sums of squares are added up
in double precision. What it costs: F32 0.2, BF16 0.5, F16 0.7, 8-bit floats 1.2 seconds of one core a GiB.
"""

from collections.abc import Callable, Iterable, Mapping
from math import hypot, isfinite, isnan, sqrt
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from registry.domain.health import Statistics
from registry.weights.arrays import byte_values

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 1 << 16
"""Elements looked at together: 256 KiB of float32 and 512 KiB of float64 beside them."""
_WIDEST = 8
_BY_PAIRS = _BLOCK
"""8-bit codes from which two at a time are counted: the larger table then pays."""
# Squares of what lies beyond would overflow or vanish.
_LARGE, _SMALL = 1e150, 1e-150
_BYTE: np.dtype[Any] = np.dtype("u1")
_HALF_BITS = np.int32(-0x70002000)
"""The sign of a float16 and its 15 bits of exponent and fraction, moved up by 13."""
_HALF_SCALE, _HALF_LIMIT = np.float32(2.0**112), 65_536


class Workspace:
    """Memory that meters share, one after the other, in one thread: 1.7 MiB."""

    def __init__(self) -> None:
        """Allocate it."""
        self.bytes = np.empty(_BLOCK * _WIDEST, np.uint8)
        self.singles = np.empty(_BLOCK, np.float32)
        self.doubles = np.empty(_BLOCK, np.float64)
        self.flags = np.empty(_BLOCK, np.bool_)


_Take = Callable[["Meter", Array], None]


class Meter:
    """Measures one tensor. For a dtype that it cannot read it counts nothing and says so."""

    def __init__(self, dtype: str, workspace: Workspace) -> None:
        """`dtype` is the registry's name of it."""
        self._workspace = workspace
        self._element, self._take = self._READERS.get(dtype, (_BYTE, None))
        self._values = byte_values(dtype) if dtype.startswith("F8_") else None
        self._histogram: Array | int = 0
        self._rest = bytearray()
        self._low: float | None = None
        self._high: float | None = None
        self._nans = self._infs = self._zeros = 0
        self._norm = 0.0

    def add(self, piece: memoryview) -> None:
        """The next bytes of the tensor, however many."""
        if self._take is None:
            return
        width = self._element.itemsize
        with np.errstate(all="ignore"):
            if self._rest:  # a piece ended within an element
                missing = width - len(self._rest)
                self._rest += piece[:missing]
                piece = piece[missing:]
                if len(self._rest) < width:
                    return
                self._take(self, np.frombuffer(bytes(self._rest), self._element))
                self._rest.clear()
            whole = len(piece) - len(piece) % width
            self._rest += piece[whole:]
            raw = np.frombuffer(piece[:whole], np.uint8)
            for start in range(0, whole, _BLOCK * width):
                self._take(self, self._aligned(raw[start : start + _BLOCK * width]))

    def statistics(self) -> Statistics:
        """What was found in everything that was added."""
        if self._take is None:
            return Statistics()
        if self._values is not None and isinstance(self._histogram, np.ndarray):
            self._evaluate(zip(self._values, self._histogram.tolist(), strict=True))
        norm = self._norm if isfinite(self._norm) else None
        return Statistics(self._nans, self._infs, self._zeros, self._low, self._high, norm)

    def _aligned(self, raw: Array) -> Array:
        values = raw.view(self._element)
        if values.flags.aligned:
            return values
        copy = self._workspace.bytes[: len(raw)]
        np.copyto(copy, raw)
        return copy.view(self._element)

    def _reals(self, values: Array) -> None:
        low, high = values.min(), values.max()
        if values.dtype.kind == "f" and not (isfinite(low) and isfinite(high)):
            values = self._finite(values)
            if not len(values):
                return
            low, high = values.min(), values.max()
        flags = self._workspace.flags[: len(values)]
        self._zeros += int(np.count_nonzero(np.equal(values, 0, out=flags)))
        self._extremes(float(low), float(high))
        self._squares(values, max(abs(float(low)), abs(float(high))))

    def _brain_floats(self, values: Array) -> None:
        singles = self._workspace.singles[: len(values)]
        bits = singles.view(np.uint32)
        np.copyto(bits, values)
        np.left_shift(bits, 16, out=bits)
        self._reals(singles)

    def _halves(self, values: Array) -> None:
        """Float16 by integer arithmetic, which is faster than numpy's own conversion.

        Its bits, moved into float32's places, are the number divided by 2^112, also where it is subnormal. What is not
        finite comes out as 65,536 or more.
        """
        singles = self._workspace.singles[: len(values)]
        bits = singles.view(np.int32)
        np.copyto(bits, values.view(np.int16))
        np.left_shift(bits, 13, out=bits)
        np.bitwise_and(bits, _HALF_BITS, out=bits)
        np.multiply(singles, _HALF_SCALE, out=singles)
        if singles.max() >= _HALF_LIMIT or singles.min() <= -_HALF_LIMIT:
            np.copyto(singles, values)
        self._reals(singles)

    def _complexes(self, values: Array) -> None:
        """NaN if either part is, else infinite if either part is."""
        if not np.isfinite(values).all():
            values = self._finite(values)
        self._zeros += len(values) - int(np.count_nonzero(values))
        parts = values.view(np.float32)
        for start in range(0, len(parts), _BLOCK):
            self._squares(parts[start : start + _BLOCK], 1.0)

    def _codes(self, values: Array) -> None:
        """Each of the 256 codes is counted; nothing is computed before the end."""
        if len(values) < _BY_PAIRS:
            self._histogram += np.bincount(values, minlength=256)
            return
        pairs = np.bincount(values.view(np.uint16), minlength=1 << 16).reshape(256, 256)
        self._histogram += pairs.sum(0) + pairs.sum(1)

    def _evaluate(self, counted: Iterable[tuple[float, int]]) -> None:
        self._nans = self._infs = self._zeros = 0
        squares = 0.0
        for value, times in counted:
            if not times:
                continue
            if isfinite(value):
                self._zeros += times * (value == 0)
                self._extremes(value, value)
                squares += times * value * value
            elif isnan(value):
                self._nans += times
            else:
                self._infs += times
        self._norm = sqrt(squares)

    def _finite(self, values: Array) -> Array:
        """Count what is not finite and give the rest."""
        finite = np.isfinite(values)
        nans = int(np.count_nonzero(np.isnan(values)))
        self._nans += nans
        self._infs += len(values) - int(np.count_nonzero(finite)) - nans
        return values[finite]

    def _extremes(self, low: float, high: float) -> None:
        self._low = low if self._low is None else min(self._low, low)
        self._high = high if self._high is None else max(self._high, high)

    def _squares(self, values: Array, peak: float) -> None:
        """Add finite numbers to the norm; none is larger than `peak`."""
        if not peak:
            return
        squares = self._workspace.doubles[: len(values)]
        scale = peak if peak > _LARGE or peak < _SMALL else 1.0
        # Not np.dot: its library would have threads spin for each block, at many times the processor time.
        np.square(values if scale == 1.0 else values / scale, out=squares, dtype=np.float64)
        self._norm = hypot(self._norm, scale * sqrt(float(squares.sum())))

    # How the elements of a dtype lie in memory, and who takes them. Of F4, F6 and block types nobody does.
    _READERS: ClassVar[Mapping[str, tuple[np.dtype[Any], _Take | None]]] = MappingProxyType(
        {
            "BOOL": (np.dtype("?"), _reals),
            "U8": (_BYTE, _reals),
            "I8": (np.dtype("i1"), _reals),
            "U16": (np.dtype("<u2"), _reals),
            "I16": (np.dtype("<i2"), _reals),
            "U32": (np.dtype("<u4"), _reals),
            "I32": (np.dtype("<i4"), _reals),
            "U64": (np.dtype("<u8"), _reals),
            "I64": (np.dtype("<i8"), _reals),
            "F16": (np.dtype("<f2"), _halves),
            "BF16": (np.dtype("<u2"), _brain_floats),
            "F32": (np.dtype("<f4"), _reals),
            "F64": (np.dtype("<f8"), _reals),
            "C64": (np.dtype("<c8"), _complexes),
            "F8_E4M3": (_BYTE, _codes),
            "F8_E5M2": (_BYTE, _codes),
            "F8_E8M0": (_BYTE, _codes),
            "F8_E4M3FNUZ": (_BYTE, _codes),
            "F8_E5M2FNUZ": (_BYTE, _codes),
        }
    )
