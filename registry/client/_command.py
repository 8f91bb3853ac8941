"""A command that begins only after it was noted which process it is, so that whoever comes later can tell if it runs.

The process starts as a few lines that wait for a byte. If whoever started it dies before, no byte comes, and it ends
without having begun.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_GATE: Final = """
import os, signal, sys
gate, count = int(sys.argv[1]), int(sys.argv[2])
variables, command = sys.argv[3 : 3 + count], sys.argv[3 + count :]
if os.read(gate, 1):
    os.close(gate)
    for variable in variables:
        name, _, value = variable.partition("=")
        os.putenv(name, value)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as failure:
        sys.exit(f"error: {command[0]} cannot be run: {failure.strerror}")
"""


def run(command: Sequence[str], variables: Mapping[str, str], *, noted: Callable[[str], None]) -> int:
    """Run a command to its end and give its exit code; `variables` are added to the environment it inherits.

    `noted` is told which process it is before it begins.
    """
    gate, key = os.pipe()
    added = [f"{name}={value}" for name, value in variables.items()]
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GATE, str(gate), str(len(added)), *added, *command],
            stdin=subprocess.DEVNULL,
            pass_fds=[gate],
        )
    except BaseException:
        os.close(key)
        raise
    finally:
        os.close(gate)
    try:
        noted(identity(process.pid))
        os.write(key, b"1")
    finally:
        os.close(key)
    return process.wait()


def identity(pid: int) -> str:
    """What tells this process from every other that has, had or will have its number."""
    return f"{pid} {_started(pid)} {_boot()}"


def is_running(process: str) -> bool:
    """Whether the process of this identity still runs."""
    pid, _, rest = process.partition(" ")
    started = _started(int(pid)) if pid.isdecimal() else ""
    return bool(started) and rest == f"{started} {_boot()}"


def _started(pid: int) -> str:
    """When it started, in ticks since the machine did; empty if there is none, or only what is left of it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
