"""A file on its way: `.<name>.part` beside the target, invisible as the target until it is whole, kept to resume from.

Exactly one process writes it (an advisory lock). It has its full size from the start, so a full disk is found before
the first byte is fetched.
"""

import errno
import fcntl
import os
import shutil
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from registry.domain.errors import ConflictError, LocalError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# What a filesystem says that cannot reserve.
_UNABLE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_FLUSH_EVERY = 32 << 20
# Linux: make a range of a file share the blocks of another (descriptor, offset, size, offset here).
_FICLONERANGE = 0x4020940D
_CLONE_RANGE = struct.Struct("=qQQQ")


class DiskFullError(LocalError):
    """The local disk has no room for the file."""

    code = "DISK_FULL"
    remedy = "Free some space, or pull into another directory with -o."


class UnwritableFileError(LocalError):
    """The target, or its directory, cannot be written."""

    code = "FILE_UNWRITABLE"
    remedy = "Check the path and its permissions, or pull into another directory with -o."


class TargetBusyError(ConflictError):
    """Another process is pulling into the same file."""

    code = "TARGET_BUSY"
    remedy = "Wait for the other pull to finish, or pull into another directory with -o."


class PartFile:
    """The file while it grows. `with` it; call `publish` when every byte is in place."""

    def __init__(self, target: Path, size: int, *, durable: bool) -> None:
        """Remember what it becomes; nothing is touched yet."""
        self._target = target
        self._path = target.with_name(f".{target.name}.part")
        self._size = size
        self._durable = durable
        self._unflushed = 0
        self._flush_wanted = threading.Event()
        self._closing = False
        self._flusher: threading.Thread | None = None
        self.descriptor = -1
        self.is_new = False
        self.is_useful = False

    def __enter__(self) -> Self:
        """Create or take over the part file, lock it, and reserve its size."""
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            if self._target.is_dir():
                raise UnwritableFileError(f"{self._target} is a directory.", path=str(self._target))
            self.descriptor, self.is_new = self._open()
        except OSError as failure:
            raise self._unwritable(failure) from failure
        try:
            self._reserve()
        except BaseException:
            self._close()
            raise
        if self._durable:
            self._flusher = threading.Thread(target=self._flush, name="registry-flush", daemon=True)
            self._flusher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Unlock. What is not published stays to resume from, if there is anything in it."""
        self._close()

    def write(self, view: memoryview, offset: int) -> None:
        """Put bytes in place. Callable from any thread."""
        try:
            while len(view):
                done = os.pwrite(self.descriptor, view, offset)
                self._unflushed += done
                view, offset = view[done:], offset + done
        except OSError as failure:
            raise self._failed(failure) from failure
        if self._unflushed >= _FLUSH_EVERY:
            self._unflushed = 0
            self._flush_wanted.set()

    def share(self, source: int, source_offset: int, size: int, offset: int) -> bool:
        """Let this file have the blocks of a range of another file, without copying them. False if it cannot.

        The file system shares whole blocks at whole blocks; what is beside them is copied.
        """
        block = os.fstatvfs(self.descriptor).f_bsize
        if sys.platform != "linux" or (source_offset - offset) % block:
            return False
        head = -offset % block
        whole = (size - head) // block * block
        if whole <= 0:
            return False
        request = _CLONE_RANGE.pack(source, source_offset + head, whole, offset + head)
        try:
            fcntl.ioctl(self.descriptor, _FICLONERANGE, request)
        except OSError as failure:
            if failure.errno in _FULL:
                raise self._failed(failure) from failure
            return False
        for start, length in ((0, head), (head + whole, size - head - whole)):
            self.write(memoryview(os.pread(source, length, source_offset + start)), offset + start)
        return True

    def holds_data(self, offset: int, size: int) -> bool:
        """False if nothing was ever written there, as far as the filesystem can tell."""
        try:
            return os.lseek(self.descriptor, offset, os.SEEK_DATA) < offset + size
        except OSError as failure:
            return failure.errno != errno.ENXIO
        except AttributeError:
            return True

    def publish(self) -> None:
        """Make the part the target: flushed to the disk, in one step, the old file gone in the same step."""
        self._stop_flusher()
        try:
            if self._durable:
                os.fsync(self.descriptor)
            self._path.replace(self._target)
            self.is_useful = True
            if self._durable:
                _sync_directory(self._target.parent)
        except OSError as failure:
            raise self._failed(failure) from failure

    def _open(self) -> tuple[int, bool]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            existed = self._path.exists()
            descriptor = os.open(self._path, flags, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise TargetBusyError(f"Another process is writing {self._target}.", path=str(self._target)) from None
            # The one that held the lock before may have published or removed this very file.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._path.stat(follow_symlinks=False)):
                    return descriptor, not existed
            os.close(descriptor)

    def _reserve(self) -> None:
        try:
            os.ftruncate(self.descriptor, self._size)
            if self._size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.descriptor, 0, self._size)
        except OSError as failure:
            if failure.errno not in _UNABLE:
                raise self._failed(failure) from failure

    def _flush(self) -> None:
        # Started early and beside the download, so that the last fsync finds little left to do.
        while self._flush_wanted.wait() and not self._closing:
            self._flush_wanted.clear()
            with suppress(OSError):  # `publish` flushes again and reports
                os.fdatasync(self.descriptor)

    def _stop_flusher(self) -> None:
        if self._flusher is not None:
            self._closing = True
            self._flush_wanted.set()
            self._flusher.join()
            self._flusher = None

    def _close(self) -> None:
        self._stop_flusher()
        if self.is_new and not self.is_useful:
            with suppress(OSError):
                self._path.unlink()
        os.close(self.descriptor)

    def _failed(self, failure: OSError) -> LocalError:
        if failure.errno not in _FULL:
            return self._unwritable(failure)
        free = shutil.disk_usage(self._target.parent).free
        return DiskFullError(
            f"{self._target} needs {self._size:,} bytes and the disk has {free:,} free.",
            path=str(self._target),
            needed=self._size,
            free=free,
        )

    def _unwritable(self, failure: OSError) -> UnwritableFileError:
        reason = failure.strerror or failure
        return UnwritableFileError(f"{self._target} cannot be written: {reason}.", path=str(self._target))


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
