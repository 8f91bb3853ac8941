"""Getting another process's files onto the disk: what the embedded store has written but not flushed."""

import os
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from threading import Lock
from time import monotonic_ns


class Flusher:
    """Flushes what changed under one folder. One a process is enough; threads that come together share a flush."""

    def __init__(self, root: Path) -> None:
        """Remember nothing yet: the first flush covers every file."""
        self._root = root
        self._flushed: dict[str, tuple[int, int]] = {}
        self._turn = Lock()
        self._started = 0

    def flush(self) -> None:
        """Flush every file and folder that changed since this process last flushed it.

        Any process may flush any file: the kernel writes the file's dirty pages, whoever dirtied them. Files that
        another process deletes meanwhile are skipped. Raises OSError if the disk refuses.
        """
        arrived = monotonic_ns()
        with self._turn:
            if self._started > arrived:
                return  # Another thread began, and ended, a whole flush while this one waited.
            started = monotonic_ns()
            for path, stamp in _stamps(self._root):
                if self._flushed.get(path) != stamp and _flush(path):
                    self._flushed[path] = stamp
            self._started = started


def _stamps(root: Path) -> list[tuple[str, tuple[int, int]]]:
    # Files before their folders: a name must not become durable before what it names. Stamps are taken first, so that
    # a write during the flush leaves the file marked as changed for the next time.
    found: list[tuple[str, tuple[int, int]]] = []
    for folder, _, names in os.walk(root, topdown=False):
        for path in (*(f"{folder}/{name}" for name in names), folder):
            try:
                stat = os.lstat(path)
            except FileNotFoundError:
                continue
            if S_ISREG(stat.st_mode) or S_ISDIR(stat.st_mode):
                found.append((path, (stat.st_mtime_ns, stat.st_size)))
    return found


def _flush(path: str) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return True
