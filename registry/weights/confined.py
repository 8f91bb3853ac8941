"""Looking into users' files at arm's length: in a process of its own that may take 5 s of processor and 256 MB a file.

What is small and quick is read where it is: files whose format nothing reads, and headers of at most INLINE_BYTES of a
format whose row in FORMATS says `inline`. Everything else goes to one of at most PROCESSES workers, which are started
when they are first needed, kept, and replaced when a file was too much for one. A worker inherits no setting, no secret
and no open file; it asks for the bytes that it wants, and ends when this process does.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from registry.domain.errors import RegistryError, WeightsError
from registry.weights import formats, sharded
from registry.weights.confined_worker import HEAD, LARGEST_READ, RANGE, as_facts
from registry.weights.errors import WeightsTooComplexError
from registry.weights.formats import Facts, ReadAt
from registry.weights.sharded import Index

INLINE_BYTES: Final = 256 * 2**10
PROCESSES: Final = 2
CPU_SECONDS: Final = 5.0
MEMORY_BYTES: Final = 240 * 2**20
"""With what the interpreter itself takes, less than 256 MB."""
_SILENCE_S: Final = 60
"""How long a worker may say nothing: its 5 s of processor time on a machine that is busy with other things."""
_MAX_ANSWER: Final = 64 * 2**20
_MAX_READS: Final = 10_000
_SOURCES: Final = Path(__file__).parents[2]


class _LargeError(Exception):
    """More was asked for than is read here."""


class _LostError(Exception):
    """The worker ended, or says what none says."""


def facts(path: str, size: int, read: ReadAt) -> Facts:
    """What `formats.facts` says of a file, found without risk to this process.

    Raises what that raises, and WeightsTooComplexError for a file that takes more than it may.
    """
    row = formats.format_of(path)
    if row.header is None:
        return formats.facts(path, size, read)
    if row.inline:
        with suppress(_LargeError):
            return formats.facts(path, size, _sparing(read))
    return as_facts(_WORKERS.ask({"what": "facts", "path": path, "size": size}, read))


def index(path: str, size: int, read: ReadAt) -> Index:
    """What `sharded.parse_index` says of the index at `path`, in the same way."""
    size = min(size, sharded.MAX_INDEX + 1)
    if size <= INLINE_BYTES:
        return sharded.parse_index(read(0, size))
    told = _WORKERS.ask({"what": "index", "path": path, "size": size}, read)
    return Index(told["weight_map"], told["total_size"])


def _sparing(read: ReadAt) -> ReadAt:
    left = INLINE_BYTES

    def spare(offset: int, size: int) -> bytes:
        nonlocal left
        left -= size
        if left < 0:
            raise _LargeError
        return read(offset, size)

    return spare


class _Worker:
    """One process, and the connection to it."""

    def __init__(self, seconds: float, memory: int) -> None:
        self.connection, theirs = socket.socketpair()
        self.connection.settimeout(_SILENCE_S)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-S", "-m", "registry.weights.confined_worker", str(seconds), str(memory)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PYTHONPATH": str(_SOURCES), "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,  # what the terminal sends is for us
            )

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, job: dict[str, Any], read: ReadAt) -> tuple[bytes, bytes]:
        """The kind and the content of the answer. Raises _LostError, and what `read` raises."""
        try:
            self._send(b"J", json.dumps(job).encode())
            for _ in range(_MAX_READS):
                kind, content = self._receive()
                if kind != b"R":
                    return kind, content
                offset, size = RANGE.unpack(content)
                if size > LARGEST_READ or offset + size > job["size"]:
                    raise _LostError
                self._send(b"D", read(offset, size))
        except OSError as failure:
            if isinstance(failure, ConnectionError | TimeoutError):
                raise _LostError from failure
            raise
        raise _LostError

    def end(self) -> int:
        """End the process at once; its exit code."""
        self.connection.close()
        self.process.kill()
        return self.process.wait()

    def forget(self) -> None:
        """In a process forked from the one that started it: it is not ours to end."""
        self.connection.close()
        self.process.returncode = 0

    def _send(self, kind: bytes, content: bytes) -> None:
        self.connection.sendall(HEAD.pack(kind, len(content)))
        self.connection.sendall(content)

    def _receive(self) -> tuple[bytes, bytes]:
        kind, length = HEAD.unpack(self._exactly(HEAD.size))
        if length > _MAX_ANSWER:
            raise _LostError
        return kind, self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        found = bytearray(size)
        view, held = memoryview(found), 0
        while held < size:
            got = self.connection.recv_into(view[held:])
            if not got:
                raise _LostError
            held += got
        return bytes(found)


class Workers:
    """The workers of this process; `ask` may be called from any thread."""

    def __init__(self, *, seconds: float = CPU_SECONDS, memory: int = MEMORY_BYTES) -> None:
        """Start none yet. The limits are those of one file."""
        self._limits = seconds, memory
        self.restart()
        atexit.register(self.end)
        os.register_at_fork(after_in_child=self._forked)

    def restart(self) -> None:
        """Start over, with no worker."""
        self._turns = threading.BoundedSemaphore(PROCESSES)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    def ask(self, job: dict[str, Any], read: ReadAt) -> dict[str, Any]:
        """What a worker found. Raises the error it found, WeightsTooComplexError, or what `read` raises."""
        with self._turns:
            for _ in range(2):
                worker = self._take()
                try:
                    kind, content = worker.ask(job, read)
                except _LostError:
                    if self._drop(worker) == -signal.SIGPROF:
                        break
                    continue  # it may not be the file's fault that the worker is gone: once more
                except BaseException:  # the worker waits for an answer that will not come
                    self._drop(worker)
                    raise
                if kind in {b"F", b"E"}:
                    self._keep(worker)
                else:
                    self._drop(worker)
                return _understood(job, kind, content)
        raise _too_complex(job)

    @property
    def pids(self) -> list[int]:
        """The processes there are."""
        return [worker.process.pid for worker in self._all]

    def end(self) -> None:
        """End every worker."""
        for worker in list(self._all):
            self._drop(worker)

    def _take(self) -> _Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.is_alive:
                    return worker
                self._all.discard(worker)
                worker.end()
            worker = _Worker(*self._limits)
            self._all.add(worker)
            return worker

    def _keep(self, worker: _Worker) -> None:
        with self._lock:
            self._idle.append(worker)

    def _drop(self, worker: _Worker) -> int:
        with self._lock:
            self._all.discard(worker)
            if worker in self._idle:
                self._idle.remove(worker)
        return worker.end()

    def _forked(self) -> None:
        for worker in self._all:
            worker.forget()
        self.restart()


def _understood(job: dict[str, Any], kind: bytes, content: bytes) -> dict[str, Any]:
    if kind == b"F":
        found: dict[str, Any] = json.loads(content)
        return found
    if kind == b"E":
        told = json.loads(content)
        raise RegistryError.rebuild(told["code"], told["message"], told["remedy"], told["details"])
    if kind == b"M":
        raise _too_complex(job)
    raise RuntimeError(f"looking into {job['path']} failed: {content.decode('utf-8', 'replace')}")


def _too_complex(job: dict[str, Any]) -> WeightsError:
    return WeightsTooComplexError(
        f"Looking into {job['path']} takes more than 5 s of processor time or 256 MB of memory."
    )


_WORKERS: Final = Workers()
