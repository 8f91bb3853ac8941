"""Weights from the store straight into numpy: all of them beside a bare loop, and one tensor of many.

The bare loop reads the same objects into freshly allocated memory and hashes them, as ours must. The tensors are
float32, which numpy knows: what is compared is reading, not converting.
"""

import json
import statistics
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks import stack, weights
from benchmarks.report import Report, Target
from benchmarks.rounds import Case, Runs, SideFailedError, interleave, run
from registry.storage.s3 import StoreConfig

MODEL = "bench/m"
FILE = "model.safetensors"
RATIO = 0.85
ONE_MS, ONE_REQUESTS = 100.0, 2.0
SPARE_MB = 400.0
_OURS, _BARE, _ONE = "ours, all tensors", "bare GETs into memory, hashed", f"ours, {weights.ONE}"


def measure(folder: Path, *, full: bool) -> Report:
    """Load all, then one, and compare every tensor with the file."""
    size, rounds = (1 << 30, 5) if full else (192 << 20, 3)
    source, runs = folder / FILE, Runs()
    size = weights.write(source, size, seed=1, dtype="F32")
    with stack.registry(folder) as (server, bucket):
        job = _job(server, bucket, folder)
        ref = run(Case("push", "ours.push", {**job, "source": str(source)})).facts["ref"]
        found = segments(server, ref)
        job |= {"ref": ref, "pieces": [piece for piece, _ in found], "urls": [url for _, url in found]}
        _compare(job, source)
        interleave([Case(_OURS, "ours.load", job), Case(_BARE, "others.bare_load", job)], rounds, runs=runs)
        one = Case(_ONE, "ours.load", {**job, "tensors": [weights.ONE]})
        interleave([one], 2 * rounds + 1, runs=runs)
        stack.reclaim(folder, bucket)
    return _report(runs, size)


def _job(server: stack.Server, bucket: StoreConfig, folder: Path) -> dict[str, Any]:
    cache = str(folder / "cache")  # nothing is ever pulled into it
    return {"url": server.url, "token": stack.TOKEN, "cache": cache, "model": MODEL, "endpoint": bucket.endpoint_url}


def segments(server: stack.Server, ref: str) -> list[tuple[list[Any], str]]:
    """Each segment of the version's file and its URL, asked for with nothing of the client."""
    model, _, number = ref.rpartition(":")
    found: list[tuple[list[Any], str]] = []
    cursor: str | None = ""
    while cursor is not None:
        url = f"{server.url}/api/v1/models/{model}/versions/{number}/segments?artifact={FILE}&urls=1&limit=1000"
        url += f"&cursor={quote(cursor)}" if cursor else ""
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {stack.TOKEN}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - an address made above
            page = json.load(answer)
        for each in page["items"]:
            piece = [each["offset"], each["size"], each["digest"].removeprefix("sha256:")]
            found.append((piece, each["url"]))
        cursor = page["next"]
    return found


def _compare(job: Mapping[str, Any], source: Path) -> None:
    """This also warms the store up."""
    wanted = weights.digests(source)
    for names in ([], [weights.ONE]):
        found = run(Case("load, compared", "ours.loaded", {**job, "tensors": names})).facts["digests"]
        if found != {name: digest for name, digest in wanted.items() if not names or name in names}:
            raise SideFailedError("what was loaded is not what was pushed")


def _report(runs: Runs, size: int) -> Report:
    report = Report(
        f"load {size >> 20} MiB of float32 into numpy, SeaweedFS on loopback, median of {len(runs[_OURS])} rounds",
        ("", "MB/s", "× bare", "CPU s/GiB", "peak MB", "seconds"),
    )
    report.rows += [runs.row(label, size, _BARE) for label in (_OURS, _BARE)]
    held = runs.fact(_OURS, "held") / 1e6
    milliseconds = statistics.median(each.seconds for each in runs[_ONE]) * 1000
    report.rows.append((_ONE, runs.fact(_ONE, "held") / 1e3 / milliseconds, "", "", runs.peak(_ONE), ""))
    report.targets += [
        Target("times the bare loop", runs.times(_BARE, _OURS), RATIO, at_least=True),
        Target("peak client memory beyond the arrays, MB", runs.peak(_OURS) - held, SPARE_MB, at_least=False),
        Target("one tensor: ms", milliseconds, ONE_MS, at_least=False),
        Target("one tensor: requests to the store", runs.fact(_ONE, "store_requests"), ONE_REQUESTS, at_least=False),
    ]
    for label in (_OURS, _ONE):
        api, store = runs.fact(label, "api_requests"), runs.fact(label, "store_requests")
        report.notes.append(f"{label}: {api:.0f} API requests, {store:.0f} to the store")
    return report
