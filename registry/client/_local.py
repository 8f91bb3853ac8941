"""Bytes that are on this machine already: which segment lies where, as far as anyone has said.

Nothing here is believed. Whoever copies from a place hashes what arrives, and says so when it was wrong.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from registry.client._hashing import Piece


@dataclass(frozen=True, slots=True)
class Location:
    """Where the bytes of a segment should lie."""

    path: Path
    offset: int
    size: int


class LocalSegments:
    """An index from sha256 to places. Safe to share between threads and transfers."""

    def __init__(self) -> None:
        """Know nothing."""
        self._places: dict[str, list[Location]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many different segments have a place."""
        return len(self._places)

    def add(self, path: Path, pieces: Iterable[Piece]) -> None:
        """Take the layout of a file for true until shown otherwise."""
        with self._lock:
            for piece in pieces:
                self._places.setdefault(piece.sha256, []).append(Location(path, piece.offset, piece.size))

    def find(self, sha256: str, size: int) -> tuple[Location, ...]:
        """Places that may hold the segment, the ones added first at the front."""
        with self._lock:
            return tuple(place for place in self._places.get(sha256, ()) if place.size == size)

    def forget(self, sha256: str, location: Location) -> None:
        """The bytes there are not what was said, or the file is gone."""
        with self._lock:
            left = [place for place in self._places.get(sha256, ()) if place != location]
            if left:
                self._places[sha256] = left
            else:
                self._places.pop(sha256, None)
