"""What a push costs: beside a bare loop of the same PUTs, beside boto3, of what is there already, and in requests.

On SeaweedFS through a whole registry, and on a reference store that throws away what it is sent, where the client is
all that is measured. Every push of ours computes two hashes of every byte: of each segment and of the file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import reference, stack, weights
from benchmarks.report import Report, Target
from benchmarks.rounds import Case, Runs, SideFailedError, interleave, run
from registry.client._hashing import hash_file
from registry.client._sources import sources
from registry.storage.s3 import StoreConfig

MODEL = "bench/m"
CPU_S = 2.6
PEAK_MB = 400.0
UNCHANGED_S, HEAD_S = 3.0, 4.0
# Of an ask for 1,000 segments, and of the reports of what was sent, one for each 256.
REQUESTS_A_THOUSAND = 6.0

_PIECE = 1 << 10
_OURS, _BARE, _BOTO = "ours", "bare PUTs", "boto3"
_AGAIN, _HEAD = "ours, unchanged", "ours, head only"
_SINK = "sink: ours"
_SINK_BESIDE, _SINK_CHECKED, _SINK_FIRST = (
    "sink: boto3 tuned, file sha256 beside",
    "sink: boto3 tuned, part sha256",
    "sink: boto3 tuned, file sha256 first",
)


def measure(folder: Path, *, full: bool) -> Report:
    """Push to the registry, then to the sink, then count requests."""
    about, rounds = (1 << 30, 5) if full else (192 << 20, 3)
    runs, source = Runs(), folder / "model.safetensors"
    with stack.registry(folder) as (server, bucket):
        job = _job(server, bucket, source, folder)
        for number in range(rounds):
            size, changed = _round(job, about, number, runs)
            stack.reclaim(folder, bucket)
        counts = _requests(job | {"source": str(folder / "many.bin")}, (2_000, 6_000) if full else (1_000, 3_000))
    _to_sink(source, rounds, runs)
    return _report(runs, size, changed, counts)


def _job(server: stack.Server, bucket: StoreConfig, source: Path, folder: Path) -> dict[str, Any]:
    return {
        "url": server.url,
        "token": stack.TOKEN,
        "cache": str(folder / "cache"),
        "model": MODEL,
        "source": str(source),
        "pieces": str(folder / "pieces.json"),
        "endpoint": bucket.endpoint_url,
        "access_key": bucket.access_key,
        "secret_key": bucket.secret_key,
        "bucket": bucket.bucket,
    }


def _round(job: Mapping[str, Any], about: int, number: int, runs: Runs) -> tuple[int, int]:
    """New weights, sent by every side in turned order; then ours again, and with another head."""
    source = Path(job["source"])
    size = weights.write(source, about, seed=number + 1)
    write_pieces(source, Path(job["pieces"]))
    own = {"prefix": f"bare-{number}", "key": f"boto3-{number}"}
    cases = [
        Case(_BOTO, "others.boto_upload", {**job, **own}),
        Case(_BARE, "others.bare_put", {**job, **own}),
        Case(_OURS, "ours.push", job),
    ]
    for case in cases if number % 2 == 0 else reversed(cases):
        measured = run(case)
        runs.add(case.label, measured)
        if case.label == _OURS:
            _check(measured.facts, source, at_most=size, at_least=size)
    again = run(Case(_AGAIN, "ours.push", job))
    runs.add(_AGAIN, again)
    _check(again.facts, source, at_most=0)
    changed = weights.retrain_head(source, seed=number + 100)
    head = run(Case(_HEAD, "ours.push", job))
    runs.add(_HEAD, head)
    _check(head.facts, source, at_most=changed + (8 << 20), at_least=changed)
    return size, changed


def _check(facts: Mapping[str, Any], source: Path, *, at_most: int, at_least: int = 0) -> None:
    if facts["sha256"] != _sha256(source):
        raise SideFailedError("the version's digest is not that of the file")
    if not at_least <= facts["moved"] <= at_most:
        raise SideFailedError(f"{facts['moved']:,} bytes were sent, not {at_least:,} to {at_most:,}")


def write_pieces(source: Path, target: Path) -> None:
    """Where the client cuts the file, and what each segment hashes to, as JSON for the sides that need it."""
    (found,) = sources([source])
    pieces = hash_file(source, found.spans).pieces
    target.write_text(json.dumps([[each.offset, each.size, each.sha256] for each in pieces]), encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _requests(job: Mapping[str, Any], sizes: tuple[int, int]) -> list[tuple[str, int, int]]:
    """API requests of pushes with more and more segments: of new ones, and of those that are there already."""
    found = []
    for count in sizes:
        weights.noise(Path(job["source"]), count * _PIECE, seed=count)
        for label in ("new", "there already"):
            case = Case(f"{count:,} segments, {label}", "ours.push_pieces", {**job, "piece": _PIECE})
            found.append((label, count, int(run(case).facts["api_requests"])))
    return found


def _to_sink(source: Path, rounds: int, runs: Runs) -> None:
    with reference.serving(source) as endpoint:
        job = {"source": str(source), "endpoint": endpoint, "bucket": "bucket", "key": "whole"}
        ours = Case(_SINK, "ours.push_to_reference", job)
        sides = {
            _SINK_BESIDE: "others.boto_upload_tuned",
            _SINK_CHECKED: "others.boto_upload_checked",
            _SINK_FIRST: "others.boto_upload_then_hash",
        }
        cases = [ours, *(replace(ours, label=label, side=side) for label, side in sides.items())]
        interleave(cases, rounds, runs=runs)
    wanted = _sha256(source)
    for label in (_SINK, _SINK_BESIDE, _SINK_FIRST):
        if any(each.facts["sha256"] != wanted for each in runs[label]):
            raise SideFailedError(f"{label} computed another sha256")


def _report(runs: Runs, size: int, changed: int, counts: list[tuple[str, int, int]]) -> Report:
    report = Report(
        f"push of {size >> 20} MiB, SeaweedFS on loopback or a sink, median of {len(runs[_OURS])} rounds",
        ("", "MB/s", "× bare", "× boto3", "CPU s/GiB", "peak MB", "seconds"),
    )
    for label in runs:
        bases = (_BARE, _BOTO) if label in {_OURS, _BARE, _BOTO} else ("", "")
        report.rows.append(runs.row(label, size, *bases))
    put_speed = size / runs.seconds(_BARE)
    head_limit = HEAD_S + changed / put_speed
    peak = max(runs.peak(label) for label in (_OURS, _AGAIN, _HEAD, _SINK))
    report.targets += [
        Target("times the speed of the bare PUTs", runs.times(_BARE, _OURS), 0.9, at_least=True),
        Target("times boto3's upload_file", runs.times(_BOTO, _OURS), 1.2, at_least=True),
        Target("CPU s/GiB with both hashes", runs.cpu(_OURS) * 2**30 / size, CPU_S, at_least=False),
        *(
            Target(f"{_SINK}, times {label.removeprefix('sink: ')}", runs.times(label, _SINK), 1.0, at_least=True)
            for label in (_SINK_BESIDE, _SINK_CHECKED, _SINK_FIRST)
        ),
        Target("unchanged, s", runs.seconds(_AGAIN), UNCHANGED_S, at_least=False),
        Target(f"head only ({changed / 1e6:.0f} MB), s", runs.seconds(_HEAD), head_limit, at_least=False),
        Target("peak client memory, MB", peak, PEAK_MB, at_least=False),
        *_growth(counts),
    ]
    report.notes += [f"{count:,} segments, {label}: {asked} API requests" for label, count, asked in counts]
    return report


def _growth(counts: list[tuple[str, int, int]]) -> list[Target]:
    """How many requests 1,000 segments more cost."""
    targets = []
    for label in dict.fromkeys(label for label, _, _ in counts):
        (few, asked), (many, asked_more) = ((count, asked) for each, count, asked in counts if each == label)
        slope = (asked_more - asked) / ((many - few) / 1_000)
        targets.append(Target(f"API requests for 1,000 more, {label}", slope, REQUESTS_A_THOUSAND, at_least=False))
    return targets
