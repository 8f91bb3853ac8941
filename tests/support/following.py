"""`registry follow` as a process, and a command for it that leaves a trace of each run."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.embedded.child import die_with_parent
from tests.support import ROOT

_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command. `ended` is false if it was killed, or still runs."""

    seq: int
    version: int
    ended: bool


class FollowProcess:
    """`registry follow` into `held`. It may be killed and started again any number of times."""

    def __init__(self, folder: Path, ref: str, environ: Mapping[str, str], *options: str, seconds: float = 0.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.held = folder, folder / "held"
        self._trace, self.said = folder / "trace", folder / "follow.err"
        command = f"{sys.executable} -m tests.support.following {self._trace} {seconds}"
        self.arguments = ["follow", ref, "-o", str(self.held), "--poll", "0.1", "--exec", command, *options]
        self._environ = dict(environ)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "registry", *self.arguments],
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - as the stack does with its own children
            )

    def kill(self) -> None:
        """The follower alone: its command goes on."""
        self.stop(signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int:
        process, self.process = self.process, None
        assert process is not None
        process.send_signal(number)
        return process.wait(_PATIENCE_S)

    def mark(self) -> dict[str, Any]:
        """What it has noted of what it dealt with last."""
        state = self.folder / ".held.follow/state.json"
        found: dict[str, Any] = json.loads(state.read_bytes())["mark"] if state.exists() else {}
        return found

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self._trace.read_text().splitlines()] if self._trace.exists() else []

    def runs(self) -> list[Run]:
        """The runs of the command, in the order in which they began."""
        lines = self.lines()
        assert [line for line in lines if line[0] not in ("start", "end")] == []
        ends = {line[3] for line in lines if line[0] == "end"}
        return [Run(int(line[1]), int(line[2]), line[3] in ends) for line in lines if line[0] == "start"]

    def wait_for(self, seq: int, patience_s: float = _PATIENCE_S) -> None:
        """Until the command has ended for this seq."""
        end = time.monotonic() + patience_s
        while not any(run.seq == seq and run.ended for run in self.runs()):
            assert time.monotonic() < end, (self.runs(), self.said.read_text()[-3000:])
            assert self.process is None or self.process.poll() is None, self.said.read_text()[-3000:]
            time.sleep(0.05)


def main(arguments: Sequence[str]) -> None:
    """The command: notes its beginning and end, and whether another one ran beside it."""
    trace, seconds = Path(arguments[0]), float(arguments[1])
    with trace.open("ab", buffering=0) as file, Path(f"{trace}.lock").open("w") as lock:
        facts = f"{os.environ['REGISTRY_SEQ']} {os.environ['REGISTRY_VERSION']} {os.getpid()}-{time.monotonic_ns()}"
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.write(f"overlap {facts}\n".encode())
        if Path(os.environ["REGISTRY_DIR"]).resolve().name != os.environ["REGISTRY_VERSION"]:
            file.write(f"elsewhere {facts}\n".encode())
        file.write(f"start {facts}\n".encode())
        time.sleep(seconds)
        file.write(f"end {facts}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
