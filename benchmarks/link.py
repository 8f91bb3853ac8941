"""A link of limited rate between a client and what it talks to: every byte of both passes, and is counted.

Each direction is a bucket of its own that all connections share, as a network card is. The bytes move inside the
kernel (`splice`), so the link costs next to no processor time. It runs in a process of its own.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

GIGABIT = 125_000_000
"""Bytes a second of 1 Gb/s."""

_ROOT = Path(__file__).parents[1]
_PIECE = 128 << 10
_PIPE = 1 << 20
# How much of the time that nobody used may be made up for: what a sleep takes too long, not what an idle link had.
_BURST_S = 0.004


class Link:
    """A link that runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        """It was just started."""
        self._process = process

    def moved(self) -> tuple[int, int]:
        """Bytes that came down to clients and went up from them so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        down, up = self._process.stdout.readline().split()
        return int(down), int(up)


@contextmanager
def limited(ports: Mapping[int, int], *, rate: int = GIGABIT) -> Iterator[Link]:
    """A link from each port of this machine to the other, `rate` bytes a second each way."""
    command = [sys.executable, "-m", "benchmarks.link", json.dumps(dict(ports)), str(rate)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            link = Link(process)
            link.moved()  # it listens
            yield link
        finally:
            process.kill()


class _Bucket:
    """One direction: says when the next bytes may go."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._free = 0.0
        self._lock = threading.Lock()
        self.moved = 0

    def take(self, size: int) -> None:
        """Wait until so many bytes may go."""
        now = time.monotonic()
        with self._lock:
            start = max(self._free, now - _BURST_S)
            self._free = start + size / self._rate
            self.moved += size
        if start > now:
            time.sleep(start - now)


def _pump(source: socket.socket, target: socket.socket, bucket: _Bucket) -> None:
    reading, writing = os.pipe()
    try:
        with suppress(OSError):
            _widen(writing)
        while got := os.splice(source.fileno(), writing, _PIECE):
            bucket.take(got)
            while got:
                got -= os.splice(reading, target.fileno(), got)
    except OSError:
        pass  # one of the two is gone; the other is told below
    finally:
        os.close(reading)
        os.close(writing)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _widen(descriptor: int) -> None:
    """Let a pipe hold more than the default."""
    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE)


def _carry(peer: socket.socket, port: int, down: _Bucket, up: _Bucket) -> None:
    try:
        behind = socket.create_connection(("127.0.0.1", port))
    except OSError:
        peer.close()
        return
    for each in (peer, behind):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with peer, behind:
        other = threading.Thread(target=_pump, args=(peer, behind, up), daemon=True)
        other.start()
        _pump(behind, peer, down)
        other.join()


def _listen(port: int, behind: int, down: _Bucket, up: _Bucket) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=128) as listening:
        while True:
            peer, _ = listening.accept()
            threading.Thread(target=_carry, args=(peer, behind, down, up), daemon=True).start()


def main() -> None:
    """Carry until killed; each line of standard input is answered with what was moved."""
    down, up = (_Bucket(int(sys.argv[2])) for _ in range(2))
    for port, behind in json.loads(sys.argv[1]).items():
        threading.Thread(target=_listen, args=(int(port), behind, down, up), daemon=True).start()
    for _ in sys.stdin:
        print(down.moved, up.moved, flush=True)


if __name__ == "__main__":
    main()
