"""Tensors on their way into memory: which segments hold them, and where each byte lands.

A tensor's memory is allocated once and never copied again. A segment that lies within one tensor is received right
into it; one that holds several small ones, or is to be widened (numpy has no bfloat16), is received into the worker's
buffer and taken apart window by window, while it is in the processor's cache.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from registry.client._hashing import Piece
from registry.client._sinks import InMemory, Scattered, Sink, Stretch
from registry.weights.arrays import as_array, as_torch, is_widened, widen
from registry.weights.tensors import BITS, Tensor


class Arrival:
    """One tensor and its memory."""

    def __init__(self, tensor: Tensor, framework: str) -> None:
        """Allocate what is needed to hold it."""
        self.tensor = tensor
        self._framework = framework
        self._wide: np.ndarray[Any, Any] | None = None
        self._raw = np.empty(0, np.uint8)
        if framework == "numpy" and is_widened(tensor.dtype):
            self._wide = np.empty(tensor.size * 8 // BITS[tensor.dtype], np.float32)
        else:
            self._raw = np.empty(tensor.size, np.uint8)

    def keep_raw(self) -> None:
        """Widen at the end: the bytes of an element do not always arrive together."""
        if self._wide is not None:
            self._wide = None
            self._raw = np.empty(self.tensor.size, np.uint8)

    @property
    def width(self) -> int:
        """Bytes that have to arrive together."""
        return 1 if self._wide is None else BITS[self.tensor.dtype] // 8

    def view(self, start: int, stop: int) -> memoryview | None:
        """The memory of some of its bytes, unless they are widened on arrival."""
        return self._raw[start:stop].data if self._wide is None else None

    def put(self, start: int, view: memoryview) -> None:
        """Take the bytes from `start` of the tensor on."""
        if self._wide is None:
            self._raw[start : start + len(view)] = view
        else:
            width = self.width
            widen(self.tensor.dtype, view, self._wide[start // width : (start + len(view)) // width])

    def build(self) -> Any:
        """The array. It shares the memory."""
        if self._wide is not None:
            return self._wide.reshape(self.tensor.shape)
        return (as_torch if self._framework == "torch" else as_array)(self.tensor, self._raw.data)


class _Part:
    """Bytes of an arrival from one of its offsets on."""

    def __init__(self, arrival: Arrival, offset: int) -> None:
        self._arrival = arrival
        self._offset = offset

    def take(self, start: int, view: memoryview) -> None:
        self._arrival.put(self._offset + start, view)


def sinks(arrivals: Iterable[Arrival], pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Sink]]:
    """Every segment that is needed, in the order of the file, and where it goes.

    `pieces` are contiguous from the start of the file; raises ValueError, its only argument the offset, if they end
    before a tensor does.
    """
    starts = [piece.offset for piece in pieces]
    stretches: dict[int, list[tuple[int, int, Arrival]]] = defaultdict(list)
    for arrival in arrivals:
        position, stop = arrival.tensor.offset, arrival.tensor.offset + arrival.tensor.size
        index = bisect_right(starts, position) - 1
        while position < stop:
            if not 0 <= index < len(pieces):
                raise ValueError(position)
            piece = pieces[index]
            until = min(stop, piece.offset + piece.size)
            stretches[index].append((position, until, arrival))
            if (position - arrival.tensor.offset) % arrival.width or (position - piece.offset) % arrival.width:
                arrival.keep_raw()
            position, index = until, index + 1
    for index in sorted(stretches):
        yield pieces[index], _sink(pieces[index], stretches[index])


def _sink(piece: Piece, stretches: Sequence[tuple[int, int, Arrival]]) -> Sink:
    if len(stretches) == 1:
        start, stop, arrival = stretches[0]
        view = arrival.view(start - arrival.tensor.offset, stop - arrival.tensor.offset)
        if view is not None and len(view) == piece.size:
            return InMemory(view)
    return Scattered(
        [
            Stretch(start - piece.offset, stop - piece.offset, _Part(arrival, start - arrival.tensor.offset))
            for start, stop, arrival in stretches
        ]
    )
