"""What a worker spends on a version that was pushed: it reads every byte once, proves it, and looks into the tensors.

From the answer to the push until the version is verified and its health known, as anyone sees it who asks; and the
processor time of the worker. For information: the worker competes with nothing but its own store here.
"""

import statistics
import time
from pathlib import Path

import registry
from benchmarks import stack, weights
from benchmarks.report import Report
from benchmarks.rounds import SideFailedError

MODEL = "bench/m"
FILE = "model.safetensors"
_PATIENCE_S = 600.0


def measure(folder: Path, *, full: bool) -> Report:
    """Push versions one after the other, and wait for the worker each time."""
    about, rounds = (1 << 30, 3) if full else (192 << 20, 2)
    source, taken, spent = folder / FILE, list[float](), list[float]()
    with (
        stack.registry(folder) as (server, bucket),
        stack.worker(folder, bucket) as worker,
        registry.Client(server.url, stack.TOKEN, cache=folder / "cache") as client,
    ):
        weights.write(source, 1 << 20, seed=0)
        wait_until_read(client, client.push(MODEL, source).ref)  # the worker has started
        for number in range(1, rounds + 1):
            size = weights.write(source, about, seed=number)
            before = worker.cpu_seconds()
            ref = client.push(MODEL, source).ref
            began = time.perf_counter()
            wait_until_read(client, ref)
            taken.append(time.perf_counter() - began)
            spent.append(worker.cpu_seconds() - before)
            source.unlink()
        stack.reclaim(folder, bucket)
    seconds, cpu = statistics.median(taken), statistics.median(spent) / (size / 2**30)
    report = Report(f"a worker reads {size >> 20} MiB, median of {rounds}", ("", "seconds", "MB/s", "CPU s/GiB"))
    report.rows.append(("from pushed to verified, health known", seconds, size / 1e6 / seconds, cpu))
    report.notes.append("a worker looks for work once a second, which is in the time")
    return report


def wait_until_read(client: registry.Client, ref: str) -> None:
    """Wait until a worker has verified the version and knows its health. Raises SideFailedError."""
    until = time.monotonic() + _PATIENCE_S
    while (found := client.version(ref)).integrity == "unverified" or found.health == "pending":
        if time.monotonic() > until:
            raise SideFailedError(f"no worker has read {ref}")
        time.sleep(0.1)
    if found.integrity != "verified" or found.health != "done":
        raise SideFailedError(f"{ref} is {found.integrity}, its health {found.health}")
