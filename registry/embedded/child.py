"""A process of the stack: it dies with the one that started it, and what it says goes to a bounded file."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import BinaryIO

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_LOG_BYTES = 8 << 20


class Child:
    """One running process. Start it from the main thread: the kernel ties its life to the thread that forked it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        keep: Sequence[int] = (),
        folder: Path | None = None,
    ) -> None:
        """Start `command`; `keep` are descriptors it inherits. If we are killed, so is it: nothing here needs more."""
        self.name = name
        self.log = log
        self.folder = folder
        # Its own session: a Ctrl-C in the terminal reaches the supervisor alone, which then stops all in order.
        self._process = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            pass_fds=tuple(keep),
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - two system calls, no locks, no allocation of ours
        )
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        self._pump = Thread(target=_pump, args=(self._process.stdout, log), name=f"log-{name}", daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """How it ended, or None while it runs."""
        return self._process.poll()

    def stop(self, grace_s: float = 10.0) -> None:
        """Ask it to end, and after `grace_s` make it end."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._pump.join(timeout=1)

    def last_words(self, lines: int = 8) -> str:
        """The end of its log."""
        self._pump.join(timeout=0.2)
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def die_with_parent(orphaned: signal.Signals, *, parent: int | None = None) -> Callable[[], None]:
    """What a new process does before its program: ask for this signal when the thread that forked it is gone.

    `parent` is the process that forks, if it is not the one that calls this.
    """
    known = os.getpid() if parent is None else parent

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(orphaned), 0, 0, 0)
        if os.getppid() != known:  # It died before the kernel was told.
            os._exit(1)

    return prepare


def _pump(source: BinaryIO, path: Path) -> None:
    """Copy to a file that is set aside when it is full: at most two of them are kept."""
    size = path.stat().st_size if path.exists() else 0
    file = path.open("ab", buffering=0)
    try:
        while block := os.read(source.fileno(), 1 << 16):
            if size > _LOG_BYTES:
                file.close()
                path.replace(path.with_suffix(".log.1"))
                file, size = path.open("ab", buffering=0), 0
            try:
                size += file.write(block)
            except OSError:
                continue  # A full disk loses log lines, never the process that writes them.
    finally:
        file.close()
        source.close()
