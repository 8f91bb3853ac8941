"""Where the bytes of one segment go while they arrive: into a file, into memory, or taken apart into several arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from registry.client._partfile import PartFile


class Sink(Protocol):
    """A window is filled from the network, hashed and stored before the next one; after a bad hash all begins anew."""

    def window(self, start: int, size: int, buffer: memoryview) -> memoryview:
        """Where to receive up to `size` bytes that belong at `start` of the segment."""

    def store(self, start: int, view: memoryview) -> None:
        """Keep what was received into the window."""


@dataclass(frozen=True, slots=True)
class InFile:
    """Every place in a file where the segment stands."""

    part: PartFile
    offsets: tuple[int, ...]

    def window(self, start: int, size: int, buffer: memoryview) -> memoryview:  # noqa: ARG002 - any window will do
        """The worker's own buffer."""
        return buffer[:size]

    def store(self, start: int, view: memoryview) -> None:
        """Write it to each place."""
        for offset in self.offsets:
            self.part.write(view, offset + start)


@dataclass(frozen=True, slots=True)
class InMemory:
    """Memory of the segment's size: the bytes land where they stay."""

    view: memoryview

    def window(self, start: int, size: int, buffer: memoryview) -> memoryview:
        """The memory itself, in strides that are still in the processor's cache when they are hashed."""
        return self.view[start : start + min(size, len(buffer))]

    def store(self, start: int, view: memoryview) -> None:
        """It is there already."""


class Taker(Protocol):
    """Takes a stretch of a segment."""

    def take(self, start: int, view: memoryview) -> None:
        """Keep bytes that belong at `start` of the stretch."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes `start` to `stop` of a segment and who takes them."""

    start: int
    stop: int
    taker: Taker


@dataclass(frozen=True, slots=True)
class Scattered:
    """Stretches of the segment go to several takers, each while it is in the processor's cache."""

    stretches: Sequence[Stretch]

    def window(self, start: int, size: int, buffer: memoryview) -> memoryview:  # noqa: ARG002 - any window will do
        """The worker's own buffer."""
        return buffer[:size]

    def store(self, start: int, view: memoryview) -> None:
        """Give each taker what of the window it wants."""
        end = start + len(view)
        for each in self.stretches:
            first, last = max(start, each.start), min(end, each.stop)
            if first < last:
                each.taker.take(first - each.start, view[first - start : last - start])


@dataclass(frozen=True, slots=True)
class Several:
    """One segment for more than one sink."""

    sinks: Sequence[Sink]

    def window(self, start: int, size: int, buffer: memoryview) -> memoryview:
        """The first one's."""
        return self.sinks[0].window(start, size, buffer)

    def store(self, start: int, view: memoryview) -> None:
        """Copy the window into the others' and let each keep its own."""
        self.sinks[0].store(start, view)
        for other in self.sinks[1:]:
            own = other.window(start, len(view), view)
            if own is not view:
                own[:] = view
            other.store(start, own)
