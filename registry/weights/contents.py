"""Where a file of a format that is not read is cut: where its bytes say, so that what moved is still found.

Most such files hold known weights behind something that has another length every time: the head of an old pickle, the
first member of an archive, a new line of a data set. Fixed cuts would store all of it anew. ADR 0014 has the figures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from registry.weights.segments import Span

MIN_BYTES = 512 * 2**10
"""No segment is smaller, but the last; so a file of this size is one segment."""
MEAN_BYTES = 2**20
"""How far apart cuts lie: a fifth more than this, on average."""
MAX_BYTES = 4 * 2**20
"""No segment is larger, whatever the bytes say."""
_NORMALISATION: Final = 2  # how strongly the sizes keep to the mean; with 2 the search is also faster than with 1

ReadInto = Callable[[memoryview], int]
"""Fills a buffer with the bytes that follow, as far as it can, and says how many those were; 0 at the end."""


def cut(size: int, read_into: ReadInto) -> list[Span]:
    """Contiguous spans from the start of a file of `size` bytes, read once from start to end in bounded memory.

    They cover all of it, or as much as could be read. Raises what `read_into` does.
    """
    if size <= MIN_BYTES:
        return [Span(0, size)] if size else []
    from pyfastcdc import FastCDC  # noqa: PLC0415 - most pushes need no cuts by content

    chunker = FastCDC(MEAN_BYTES, min_size=MIN_BYTES, max_size=MAX_BYTES, normalized_chunking=_NORMALISATION)
    # A stream and not a mapped file: one that is truncated meanwhile would end the process.
    chunks = chunker.cut_stream(_Stream(size, read_into))
    return [Span(chunk.offset, chunk.length) for chunk in chunks]


@dataclass(slots=True)
class _Stream:
    """At most `left` bytes of what `read_into` gives: the file may be growing."""

    left: int
    read_into: ReadInto

    def readinto(self, buffer: memoryview) -> int:
        """As of any file."""
        got = self.read_into(buffer[: self.left])
        self.left -= got
        return got
