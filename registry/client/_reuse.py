"""Segments that are on this machine already: found in the file on its way itself, or copied from other files.

Neighbours that lie side by side in another file as they will in this one are copied in one run. Where the file system
shares blocks between files the run is shared; else it is read, hashed and written in one pass. (Letting the kernel
copy and hashing afterwards costs a third more: the bytes must be read for the hash anyway.) Either way what arrives
is hashed, not what was there a moment before.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from registry.client._hashing import Piece
from registry.client._local import LocalSegments, Location
from registry.client._partfile import PartFile
from registry.client._workers import Lane

# Enough of a run to share or read ahead, and few enough bytes that the threads finish together.
_RUN_SIZE = 16 << 20

Places = Mapping[Piece, tuple[int, ...]]
"""Each different segment of a file, at its first offset, with every offset it belongs at."""


@dataclass(frozen=True, slots=True)
class Run:
    """Segments that follow each other in `source` as they do in the file on its way."""

    source: Location  # of all of them
    pieces: tuple[Piece, ...]

    def place(self, piece: Piece) -> Location:
        """Where in the source one of the pieces lies."""
        return Location(self.source.path, self.source.offset + piece.offset - self.pieces[0].offset, piece.size)


@dataclass(frozen=True, slots=True)
class Copied:
    """What came of a run."""

    run: Run
    good: tuple[Piece, ...]
    bad: tuple[Piece, ...]


def runs(pieces: Sequence[Piece], local: LocalSegments) -> Iterator[Run]:
    """Those of the segments that have a place, in runs."""
    source: Location | None = None
    run: list[Piece] = []
    for piece in pieces:
        found = local.find(piece.sha256, piece.size)
        follows = source and _following(source, run[-1], piece, found)
        if source and follows and source.size < _RUN_SIZE:
            source = Location(source.path, source.offset, source.size + piece.size)
            run.append(piece)
            continue
        if source:
            yield Run(source, tuple(run))
        source, run = (found[0], [piece]) if found else (None, [])
    if source:
        yield Run(source, tuple(run))


@dataclass(frozen=True, slots=True)
class Filling:
    """A file on its way, and where each of its segments belongs. Callable from any thread."""

    part: PartFile
    places: Places

    def is_in_place(self, piece: Piece, lane: Lane) -> bool:
        """Whether an earlier transfer left the segment everywhere it belongs."""
        return all(
            self.part.holds_data(offset, piece.size) and _hashes_to(self.part.descriptor, offset, piece, lane)
            for offset in self.places[piece]
        )

    def copy(self, run: Run, lane: Lane) -> Copied:
        """Bring a run in. Trouble at the source only makes pieces bad. Raises DiskFullError, UnwritableFileError."""
        good: list[Piece] = []
        with suppress(OSError):
            source = os.open(run.source.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                is_shared = self.part.share(source, run.source.offset, run.source.size, run.pieces[0].offset)
                for piece in run.pieces:
                    if is_shared and len(self.places[piece]) == 1:
                        is_good = _hashes_to(self.part.descriptor, piece.offset, piece, lane)
                    else:
                        is_good = self._copy(source, run.place(piece).offset, piece, lane)
                    if is_good:
                        good.append(piece)
            finally:
                os.close(source)
        return Copied(run, tuple(good), tuple(piece for piece in run.pieces if piece not in good))

    def _copy(self, source: int, offset: int, piece: Piece, lane: Lane) -> bool:
        running = hashlib.sha256()
        for start in range(0, piece.size, len(lane.buffer)):
            lane.check()
            view = lane.buffer[: piece.size - start]
            if os.preadv(source, [view], offset + start) != len(view):
                return False
            running.update(view)
            for to in self.places[piece]:
                self.part.write(view, to + start)
        return running.hexdigest() == piece.sha256


def _hashes_to(descriptor: int, offset: int, piece: Piece, lane: Lane) -> bool:
    """Whether the bytes there are the segment's. Raises OSError if they cannot be read."""
    running = hashlib.sha256()
    for start in range(0, piece.size, len(lane.buffer)):
        lane.check()
        view = lane.buffer[: piece.size - start]
        if os.preadv(descriptor, [view], offset + start) != len(view):
            return False
        running.update(view)
    return running.hexdigest() == piece.sha256


def _following(source: Location, last: Piece, piece: Piece, found: Sequence[Location]) -> bool:
    """Whether the piece stands right behind the last one, here and in the source."""
    if piece.offset != last.offset + last.size:
        return False
    return any(each.path == source.path and each.offset == source.offset + source.size for each in found)
