"""A dispatcher as a process of its own, to be killed: `python -m tests.support.dispatcher URL SCALE LEASE_S`."""

import subprocess
import sys
import threading
from datetime import timedelta

from registry.db.session import Database
from registry.domain.targets import Allowed
from registry.domain.webhooks import RETRIES
from registry.jobs.deliver import Dispatcher
from tests.support import ROOT


def start(url: str, *, scale: float, lease_s: float) -> subprocess.Popen[bytes]:
    """Start one whose waits are `scale` times the usual ones."""
    command = [sys.executable, "-m", "tests.support.dispatcher", url, str(scale), str(lease_s)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)


def main() -> None:
    url, scale, lease_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    dispatcher = Dispatcher(
        Database(url),
        Allowed.of(["127.0.0.1"]),
        schedule=[wait * scale for wait in RETRIES],
        lease=timedelta(seconds=lease_s),
    )
    with dispatcher.running():
        threading.Event().wait()


if __name__ == "__main__":
    main()
