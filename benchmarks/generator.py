"""A closed-loop load generator: each connection sends its next request when the last was answered.

One process, sockets and a selector, nothing parsed that is not needed: it shares the machine with the server that is
measured, so it must cost little. Every server is measured with it, and every answer must be a 200 with a body of
known length.
"""

import json
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the generator saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class RefusedError(Exception):
    """A server under load answered something else than 200."""


def load(url: str, *, headers: Mapping[str, str], connections: int, seconds: float) -> Load:
    """Ask for `url` again and again, in a process of its own. Raises RefusedError."""
    job = {"url": url, "headers": dict(headers), "connections": connections, "seconds": seconds}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.generator"],
        cwd=_ROOT, input=json.dumps(job), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RefusedError(done.stderr.strip().splitlines()[-1])
    return Load(**json.loads(done.stdout))


class _Connection:
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, host: str, port: int, request: bytes) -> None:
        self.socket = socket.create_connection((host, port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request, self._pending, self._sent = request, b"", 0.0

    def ask(self) -> None:
        """Send the request."""
        self._pending, self._sent = b"", time.perf_counter()
        self.socket.sendall(self._request)

    def read(self) -> float | None:
        """Take what arrived; the seconds it took if that was the end of the answer. Raises RefusedError."""
        arrived = self.socket.recv(65536)
        if not arrived:
            raise RefusedError("the server closed a connection")
        self._pending += arrived
        head, found, body = self._pending.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return None
        if head.split(b" ", 2)[1] != b"200":
            raise RefusedError(self._pending.decode(errors="replace")[:2000].replace("\r\n", " | "))
        return time.perf_counter() - self._sent


def _length(head: bytes) -> int:
    lowered = head.lower()
    start = lowered.find(b"\r\ncontent-length:")
    if start < 0:
        raise RefusedError("an answer without Content-Length")
    return int(lowered[start + 17 :].partition(b"\r\n")[0])


def _run(url: str, headers: dict[str, str], connections: int, seconds: float) -> Load:
    parts = urlsplit(url)
    lines = [f"GET {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join([*lines, "", ""]).encode()
    selector, taken = selectors.DefaultSelector(), []
    for _ in range(connections):
        connection = _Connection(parts.hostname or "", parts.port or 80, request)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.ask()
    began = time.perf_counter()
    until = began + seconds
    while time.perf_counter() < until:
        for key, _ in selector.select(timeout=1):
            took = key.data.read()
            if took is not None:
                taken.append(took)
                key.data.ask()
    lasted = time.perf_counter() - began
    hundredths = statistics.quantiles(taken, n=100)
    return Load(len(taken), lasted, hundredths[49] * 1000, hundredths[98] * 1000)


def main() -> None:
    """Run what standard input says and print what was seen."""
    found = _run(**json.load(sys.stdin))
    print(json.dumps({name: getattr(found, name) for name in Load.__slots__}))


if __name__ == "__main__":
    main()
