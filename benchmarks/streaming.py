"""A file of many segments over plain HTTP, as curl fetches it: through the API, or from the store it redirects to.

One connection reads the whole file, and meanwhile others ask what is in production. What is read is counted and thrown
away by the kernel, so that the reader costs nothing; that the bytes are right is seen once, before the clock runs.
"""

import hashlib
import http.client
import socket
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import registry
from benchmarks import stack, weights
from benchmarks.report import Report, Target
from benchmarks.rounds import Case, Runs, SideFailedError, run
from benchmarks.watch import Watch
from registry.storage.s3 import StoreConfig

MODEL = "bench/m"
FILE = "model.safetensors"
RATE_MB, P99_MS, GROWTH_MB = 200.0, 250.0, 32.0
_ASKERS, _PAUSE_S = 4, 0.05
_PATIENCE_S = 120.0
_WARM = 4
_BLOCK = 1 << 20
_HEADERS = {"Authorization": f"Bearer {stack.TOKEN}"}
_ALONE, _BUSY, _REDIRECTED = "through the API", "through the API, others asking", "redirected, one object"


def measure(folder: Path, *, full: bool) -> Report:
    """Read the file alone and beside others that ask; then from the store, once it lies there as one object."""
    size, rounds = (1 << 30, 5) if full else (192 << 20, 3)
    source, runs = folder / FILE, Runs()
    size = weights.write(source, size, seed=1)
    waits: list[float] = []
    with stack.registry(folder) as (server, bucket):
        job = {"url": server.url, "token": stack.TOKEN, "cache": str(folder / "cache"), "model": MODEL}
        ref = run(Case("push", "ours.push", {**job, "source": str(source)})).facts["ref"]
        whole = server.url + _prepare(server, ref)
        streamed = f"{whole}?redirect=0"
        for _ in range(_WARM):  # what the first streams of each process need is not growth
            _compare(streamed, source)
        watch = Watch(server)
        with watch.running():
            for _ in range(rounds):
                runs.add(_ALONE, run(Case(_ALONE, "streaming.read", {"url": streamed})))
                with _Asking(server) as asking:
                    runs.add(_BUSY, run(Case(_BUSY, "streaming.read", {"url": streamed})))
                waits += asking.waits
        redirected = _materialised(folder, bucket, whole)
        if redirected is not None:
            _compare(redirected, source)
            for _ in range(rounds):
                runs.add(_REDIRECTED, run(Case(_REDIRECTED, "streaming.read", {"url": redirected})))
        stack.reclaim(folder, bucket)
    return _report(runs, size, waits, watch)


def _prepare(server: stack.Server, ref: str) -> str:
    """Put the version into production, and give the path of its file."""
    model, _, number = ref.rpartition(":")
    with registry.Client(server.url, stack.TOKEN) as client:
        client.promote(ref, to="production")
    return f"/api/v1/models/{model}/versions/{number}/artifacts/{FILE}"


def _compare(url: str, source: Path) -> None:
    """Once, before anything is measured, every byte is looked at; this also warms the store up."""
    running = hashlib.sha256()
    answer = _opened(url)
    while block := answer.read(_BLOCK):
        running.update(block)
    with source.open("rb") as file:
        if running.hexdigest() != hashlib.file_digest(file, "sha256").hexdigest():
            raise SideFailedError("other bytes came than were pushed")


def _opened(url: str) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    # A signed URL of the store is all that the store wants to see.
    headers = {} if "X-Amz-Signature" in parts.query else _HEADERS
    connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
    return connection.getresponse()


def _materialised(folder: Path, bucket: StoreConfig, url: str) -> str | None:
    """Where the API redirects to once a worker has made one object of the file; None if it never does."""
    with stack.worker(folder, bucket):
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            answer = _opened(url)
            location = answer.getheader("Location")
            answer.close()
            if location:
                return location
            time.sleep(0.5)
    return None


def read(job: Mapping[str, Any]) -> Callable[[], Mapping[str, Any]]:
    """The measured reader: one GET, its answer counted in the kernel."""
    parts = urlsplit(job["url"])
    sock = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=120)
    lines = [f"GET {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
    lines += [] if "X-Amz-Signature" in parts.query else [f"Authorization: {_HEADERS['Authorization']}"]

    def action() -> Mapping[str, Any]:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        head, length, buffer = b"", 0, bytearray(_BLOCK)
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        top, _, body = head.partition(b"\r\n\r\n")
        assert top.split(b" ", 2)[1] == b"200", top
        fields = dict(line.lower().split(b":", 1) for line in top.split(b"\r\n")[1:])
        wanted, length = int(fields[b"content-length"]), len(body)
        while length < wanted:
            got = sock.recv_into(buffer, _BLOCK, socket.MSG_TRUNC)
            assert got, "the answer ended early"
            length += got
        return {"bytes": length}

    return action


class _Asking:
    """Clients that ask what is in production, each again a moment after it was answered; how long each waited."""

    def __init__(self, server: stack.Server) -> None:
        self._server = server
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(_ASKERS)]
        self.waits: list[float] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        parts = urlsplit(self._server.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        while not self._is_over.wait(_PAUSE_S):
            began = time.perf_counter()
            connection.request("GET", f"/api/v1/resolve?ref={MODEL}@production", headers=_HEADERS)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            self.waits.append((time.perf_counter() - began) * 1000)
        connection.close()


def _report(runs: Runs, size: int, waits: list[float], watch: Watch) -> Report:
    report = Report(
        f"{size >> 20} MiB of many segments over one HTTP connection, median of {len(runs[_ALONE])} rounds",
        ("", "MB/s", "seconds"),
    )
    for label in runs:
        taken = " ".join(f"{each.seconds:.2f}" for each in runs[label])
        report.rows.append((label, size / 1e6 / runs.seconds(label), taken))
    p99 = statistics.quantiles(waits, n=100)[98]
    report.rows.append(("resolve meanwhile, p50 ms", statistics.median(waits), f"{len(waits)} requests"))
    report.targets += [
        Target("MB/s through the API", size / 1e6 / runs.seconds(_ALONE), RATE_MB, at_least=True),
        Target("MB/s through the API, others asking", size / 1e6 / runs.seconds(_BUSY), RATE_MB, at_least=True),
        Target("p99 of a resolve meanwhile, ms", p99, P99_MS, at_least=False),
        Target("growth of an API process, MB", watch.growth() / 1e6, GROWTH_MB, at_least=False),
    ]
    if any(each.facts["bytes"] != size for label in runs for each in runs[label]):
        raise SideFailedError("an answer had another size than the file")
    if _REDIRECTED not in runs:
        report.notes.append("the API never redirected: nothing had made one object of the file")
    return report
