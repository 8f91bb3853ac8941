"""Real servers for tests, shared by all pytest workers of a run and gone soon after the last of them, however it ended.

A server is owned by a small process of its own (`python -m tests.support.<name> FOLDER`). Every worker holds a shared
lock on `FOLDER/users`; the owner stops the server when it can have that lock alone, so a killed run leaves nothing.
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def shared(module: str, folder: Path, *, timeout_s: float = 60) -> Iterator[dict[str, str]]:
    """What the server's owner told about it; starts the owner if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "users").open("w") as users, (folder / "starting").open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for an owner that is just stopping
        if not (folder / "server.json").exists():
            _start(module, folder, timeout_s)
        fcntl.flock(starting, fcntl.LOCK_UN)
        yield json.loads((folder / "server.json").read_text())


def _start(module: str, folder: Path, timeout_s: float) -> None:
    with (folder / "owner.log").open("wb") as log:
        owner = subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until = time.monotonic() + timeout_s
    while not (folder / "server.json").exists():
        if owner.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{module} did not start: {(folder / 'owner.log').read_text()[-2000:]}")
        time.sleep(0.05)
    owner.returncode = 0  # It outlives us on purpose: no warning about a process left behind.


def own(folder: Path, told: dict[str, str]) -> None:
    """In the owner: tell the users, and return when the last of them is gone."""
    draft = folder / "server.json.new"
    draft.write_text(json.dumps(told))
    draft.replace(folder / "server.json")
    users = (folder / "users").open("w")
    while True:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.25)
            continue
        (folder / "server.json").unlink(missing_ok=True)
        globals()["_held_until_exit"] = users
        return
