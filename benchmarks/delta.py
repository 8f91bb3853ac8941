"""A pull over a link of 1 Gb/s of a version whose head alone is new, beside a pull of all of it.

API and store are both behind the link, which counts what passes. The directory holds the version before; between the
rounds it is brought back to that, which is not counted. The links' own rate is measured too, by a bare loop.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

from benchmarks import link, stack, weights
from benchmarks.report import Report, Target
from benchmarks.rounds import Case, Measured, Runs, SideFailedError, run, same_bytes
from registry.embedded.seaweed import free_ports
from registry.storage.s3 import StoreConfig

MODEL = "bench/m"
FILE = "model.safetensors"
TIMES = 8.0
SPARE_MB = 5.0
_FULL, _DELTA, _BARE = "ours, all of it", "ours, onto the version before", "bare GETs, all of it"


def measure(folder: Path, *, full: bool) -> Report:
    """Push two versions, then pull the second with and without the first."""
    size, rounds = (1 << 30, 5) if full else (192 << 20, 3)
    before, after = folder / "before" / FILE, folder / "after" / FILE
    size, changed = weights.write(before, size, seed=1), 0
    runs, moved = Runs(), dict[str, list[int]]()
    with _linked(folder) as (wire, job):
        first = run(Case("push", "ours.push", {**job, "source": str(before)})).facts["ref"]
        after.parent.mkdir()
        before.replace(after)
        changed = weights.retrain_head(after, seed=2)
        second = run(Case("push", "ours.push", {**job, "source": str(after)})).facts["ref"]
        run(Case("push", "others.boto_upload", {**job, "endpoint": job["direct"], "source": str(after)}))
        for number in range(rounds):
            cases = [
                Case(_FULL, "ours.pull", {**job, "ref": second, "target": str(folder / "new")}),
                Case(_DELTA, "ours.pull", {**job, "ref": second, "target": str(folder / "held")}),
                Case(_BARE, "others.bare_get", {**job, "size": size, "target": str(folder / "bare" / FILE)}),
            ]
            for case in cases if number % 2 == 0 else reversed(cases):
                if case.label == _DELTA:
                    run(Case("pull the version before", "ours.pull", {**case.job, "ref": first}))
                down, _ = wire.moved()
                runs.add(case.label, run(case, before=partial(_ready, folder), after=partial(_compare, after)))
                moved.setdefault(case.label, []).append(wire.moved()[0] - down)
    return _report(runs, moved, size, changed)


@contextmanager
def _linked(folder: Path) -> Iterator[tuple[link.Link, dict[str, Any]]]:
    """A registry behind a link: the API on one of its ports, the store on another, which signed URLs carry."""
    api_port, behind_api, store_port = free_ports(3)
    settings = {"REGISTRY_S3_PUBLIC_ENDPOINT_URL": f"http://127.0.0.1:{store_port}"}
    with stack.registry(folder, settings=settings, port=behind_api) as (_, bucket):
        ports = {api_port: behind_api, store_port: int(str(bucket.endpoint_url).rpartition(":")[2])}
        with link.limited(ports) as wire:
            yield wire, _job(bucket, folder, api_port, store_port)
        stack.reclaim(folder, bucket)


def _job(bucket: StoreConfig, folder: Path, api_port: int, store_port: int) -> dict[str, Any]:
    return {
        "url": f"http://127.0.0.1:{api_port}",
        "token": stack.TOKEN,
        "cache": str(folder / "cache"),
        "model": MODEL,
        "endpoint": f"http://127.0.0.1:{store_port}",
        "direct": bucket.endpoint_url,
        "access_key": bucket.access_key,
        "secret_key": bucket.secret_key,
        "bucket": bucket.bucket,
        "key": "whole",
    }


def _ready(folder: Path, case: Case) -> None:
    """Nothing is here but the version before, where that is meant."""
    for other in ("new", "bare", "cache"):
        rmtree(folder / other, ignore_errors=True)
    if case.label == _DELTA and not (folder / "held" / FILE).exists():
        raise SideFailedError("the version before is not there")


def _compare(wanted: Path, case: Case, _: Measured) -> None:
    target = Path(case.job["target"])
    same_bytes(wanted, target if target.suffix else target / FILE)


def _report(runs: Runs, moved: Mapping[str, list[int]], size: int, changed: int) -> Report:
    report = Report(
        f"pull of {size >> 20} MiB of which {changed / 1e6:.0f} MB are new, over 1 Gb/s, median of {len(runs[_FULL])}",
        ("", "MB/s", "× all of it", "CPU s/GiB", "peak MB", "seconds", "MB over the link"),
    )
    for label in runs:
        report.rows.append((*runs.row(label, size, _FULL), max(moved[label]) / 1e6))
    most = (max(moved[_DELTA]) - changed) / 1e6
    carried = size / runs.seconds(_BARE) / link.GIGABIT
    report.targets += [
        Target("times as fast as all of it", runs.times(_FULL, _DELTA), TIMES, at_least=True),
        Target("MB moved beyond what changed", most, SPARE_MB, at_least=False),
        Target("the link's rate, used by a bare loop", carried, 0.9, at_least=True),
        Target("peak client memory, MB", max(runs.peak(label) for label in (_FULL, _DELTA)), 400, at_least=False),
    ]
    return report
