"""Objects one after the other as one stream of bytes: a few threads read ahead of whoever takes them.

Memory is a ring of buffers that are filled again and again, whatever the sizes of objects and of the whole. One buffer
more than there are threads: while one is being taken, each thread has one to fill.
"""

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from registry.domain.errors import VersionDamagedError
from registry.storage.s3 import Store
from registry.storage.transfer import Abort

WINDOW = 4 << 20
READERS = 3


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` bytes of an object from `offset`. With a sha256 (hex) they are checked against it."""

    key: str
    offset: int
    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class _Window:
    """What one buffer takes: bytes of one piece. `is_last` of that piece."""

    piece: Piece
    offset: int
    size: int
    is_last: bool


def read_ahead(store: Store, pieces: Iterable[Piece]) -> Generator[memoryview]:
    """The bytes of the pieces in order. A view is good until the next one is asked for.

    A piece with a sha256 is checked before its last bytes are given out, so wrong bytes may come out, but never all of
    them. Closing the iterator ends its threads wherever they wait.
    Raises VersionDamagedError, ObjectMissingError or StorageUnavailableError, possibly in the middle.
    """
    abort, digest = Abort(), hashlib.sha256()
    waiting, free = _windows(pieces), [memoryview(bytearray(WINDOW)) for _ in range(READERS + 1)]
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="read-ahead")
    ahead: deque[tuple[_Window, memoryview, Future[None]]] = deque()
    try:
        while True:
            while free and (window := next(waiting, None)) is not None:
                buffer = free.pop()
                view, key, offset = buffer[: window.size], window.piece.key, window.offset
                ahead.append((window, buffer, pool.submit(store.read_into, key, view, offset=offset, abort=abort)))
            if not ahead:
                return
            window, buffer, filled = ahead.popleft()
            filled.result()
            view = buffer[: window.size]
            if window.piece.sha256 is not None:
                digest.update(view)
                if window.is_last:
                    _check(window.piece, digest.hexdigest())
                    digest = hashlib.sha256()
            yield view
            free.append(buffer)
    finally:
        abort.set()
        pool.shutdown(cancel_futures=True)


def _windows(pieces: Iterable[Piece]) -> Iterator[_Window]:
    for piece in pieces:
        end = piece.offset + piece.size
        for offset in range(piece.offset, end, WINDOW):
            size = min(WINDOW, end - offset)
            yield _Window(piece, offset, size, offset + size == end)


def _check(piece: Piece, sha256: str) -> None:
    if sha256 != piece.sha256:
        raise VersionDamagedError(f"The bytes of {piece.key} are not what was published.", key=piece.key)
