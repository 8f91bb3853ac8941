"""What it takes to say what changed between two versions: from digests at once, and measured element by element.

API, worker and SeaweedFS on one machine. A worker reads each version once after it was pushed, which is timed as well;
then the digests of its tensors are known. Every tensor of the second version is another one, so the statistics need all
bytes of both: they are compared with the time that it takes to read these bytes from the store and do nothing.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import registry
from benchmarks import stack, weights
from benchmarks.load import segments
from benchmarks.proof import wait_until_read
from benchmarks.report import Report, Target
from benchmarks.rounds import Case, Runs, SideFailedError, run
from registry.storage.s3 import StoreConfig

MODEL = "bench/m"
FILE = "model.safetensors"
DIGESTS_MS, TIMES_READING = 200.0, 3.0
_ASKED = 25
_READ = "bare GETs of both, thrown away"


def measure(folder: Path, *, full: bool) -> Report:
    """Push pairs of versions, one a round: what was measured is kept, so a pair is measured once."""
    about, rounds = (1 << 30, 3) if full else (192 << 20, 2)
    runs, found, source = Runs(), _Found(), folder / FILE
    with (
        stack.registry(folder) as (server, bucket),
        stack.worker(folder, bucket) as worker,
        registry.Client(server.url, stack.TOKEN, cache=folder / "cache") as client,
    ):
        for number in range(rounds):
            model = f"{MODEL}-{number}"
            size = weights.write(source, about, seed=2 * number + 1)
            refs = [_published(client, model, source)]
            weights.write(source, about, seed=2 * number + 2)
            refs.append(_published(client, model, source))
            job = _job(server, bucket, refs)
            runs.add(_READ, run(Case(_READ, "others.bare_read", job)))
            _compare(client, refs, found, worker)
            runs.add(_READ, run(Case(_READ, "others.bare_read", job)))
        stack.reclaim(folder, bucket)
    return _report(runs, found, size)


class _Found:
    """Seconds, in the order of the rounds."""

    def __init__(self) -> None:
        self.digests: list[float] = []
        self.measured: list[float] = []
        self.cpu: list[float] = []


def _published(client: registry.Client, model: str, source: Path) -> str:
    """Push a version, and wait until a worker has read it."""
    ref = client.push(model, source).ref
    wait_until_read(client, ref)
    return ref


def _job(server: stack.Server, bucket: StoreConfig, refs: list[str]) -> dict[str, Any]:
    urls = [url for ref in refs for _, url in segments(server, ref)]
    return {"endpoint": bucket.endpoint_url, "urls": urls}


def _compare(client: registry.Client, refs: list[str], found: _Found, worker: stack.Server) -> None:
    for _ in range(_ASKED):
        began = time.perf_counter()
        told = client.diff(*refs)
        found.digests.append(time.perf_counter() - began)
    tensors = told.summary["changed"].count
    if told.pending or told.verdict != "different" or set(told.summary) != {"changed"}:
        raise SideFailedError(f"of wholly new weights it was said: {told.verdict}, {told.summary}")
    cpu, began = worker.cpu_seconds(), time.perf_counter()
    measured = client.diff(*refs, statistics=True)
    found.measured.append(time.perf_counter() - began)
    found.cpu.append(worker.cpu_seconds() - cpu)
    distances = [each.distance for each in measured.tensors]
    if len(distances) != tensors or not all(each is not None and each.relative_l2 for each in distances):
        raise SideFailedError("a changed tensor was not measured")


def _report(runs: Runs, found: _Found, size: int) -> Report:
    report = Report(
        f"two versions of {size >> 20} MiB, all tensors changed, median of {len(found.measured)} pairs",
        ("", "ms", "MB/s", "CPU s/GiB", "× reading"),
    )
    both = 2 * size
    reading = runs.seconds(_READ)
    digests, measured = statistics.median(found.digests), statistics.median(found.measured)
    ratio = measured / reading
    gib = both / 2**30
    report.rows += [
        ("digests only", digests * 1000, "", "", ""),
        ("with statistics", measured * 1000, both / 1e6 / measured, statistics.median(found.cpu) / gib, ratio),
        (_READ, reading * 1000, both / 1e6 / reading, runs.cpu(_READ) / gib, 1.0),
    ]
    report.targets += [
        Target("digests only, as the client sees it, ms", digests * 1000, DIGESTS_MS, at_least=False),
        Target("with statistics, times the time to read both", ratio, TIMES_READING, at_least=False),
    ]
    return report
