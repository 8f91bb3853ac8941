"""What SeaweedFS takes and gives by the size of the objects: the cost side of ADR 0013.

Presigned PUTs, then GETs, of one file of random bytes cut into objects of one size, by four threads on connections that
stay open. Sizes are measured in turn, in turned order. Processor time is of client and store together, and the figure
to trust where others use the machine.
"""

import http.client
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks import stack
from benchmarks.report import Report
from registry.storage.presign import Identity, Target, presign
from registry.storage.s3 import StoreConfig

SIZES_KB = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
_THREADS = 4
_LIFETIME_S = 3600
Measured = tuple[float, float]
"""Seconds, and seconds of processor time."""


def measure(folder: Path, *, full: bool) -> Report:
    """Every size several times against one store."""
    size, rounds = (256 << 20, 5) if full else (32 << 20, 3)
    data = np.random.Generator(np.random.SFC64(1)).bytes(size)
    taken: dict[tuple[int, str], list[Measured]] = defaultdict(list)
    with stack.store(folder) as config:
        _round(config, data, 1 << 20, "warm")
        for number in range(rounds):
            for kilobytes in SIZES_KB if number % 2 == 0 else reversed(SIZES_KB):
                for method, found in _round(config, data, kilobytes << 10, f"{number}-{kilobytes}").items():
                    taken[kilobytes, method].append(found)
    report = Report(
        f"{size >> 20} MiB in objects of one size, SeaweedFS on loopback, median of {rounds}",
        ("object KiB", "objects", "PUT MB/s", "PUT CPU s/GiB", "GET MB/s", "GET CPU s/GiB"),
    )
    for kilobytes in SIZES_KB:
        cells: list[str] = []
        for method in ("PUT", "GET"):
            seconds, cpu = (statistics.median(each) for each in zip(*taken[kilobytes, method], strict=True))
            cells += [f"{size / 1e6 / seconds:.0f}", f"{cpu * (1 << 30) / size:.2f}"]
        report.rows.append((str(kilobytes), str(size // (kilobytes << 10)), *cells))
    return report


def _round(config: StoreConfig, data: bytes, size: int, prefix: str) -> dict[str, Measured]:
    offsets = range(0, len(data), size)
    found = {}
    for method in ("PUT", "GET"):
        began, before = time.perf_counter(), _processor_s()
        with ThreadPoolExecutor(_THREADS) as pool:
            send = _sender(config, data, size, method=method, prefix=prefix)
            list(pool.map(send, [offsets[number::_THREADS] for number in range(_THREADS)]))
        found[method] = (time.perf_counter() - began, _processor_s() - before)
    return found


def _sender(
    config: StoreConfig, data: bytes, size: int, *, method: str, prefix: str
) -> Callable[[range], None]:  # fmt: skip
    parts = urlsplit(str(config.endpoint_url))
    target = Target(parts.scheme, parts.netloc, f"/{config.bucket}", "us-east-1")
    identity = Identity(str(config.access_key), str(config.secret_key))
    view = memoryview(data)

    def send(offsets: range) -> None:
        buffer = memoryview(bytearray(size))
        with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)) as connection:
            for offset in offsets:
                key = f"{prefix}/{offset}"
                url = presign(
                    target, identity, method=method, key=key, headers={}, expires=_LIFETIME_S, at=datetime.now(UTC)
                )
                connection.request(method, url, body=view[offset : offset + size] if method == "PUT" else None)
                answer = connection.getresponse()
                assert answer.status == 200, answer.read()
                while answer.readinto(buffer):
                    pass

    return send


def _processor_s() -> float:
    """Of this process and all that it started."""
    this = psutil.Process()
    times = [each.cpu_times() for each in (this, *this.children(recursive=True))]
    return sum(each.user + each.system for each in times)
