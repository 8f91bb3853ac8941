"""What a pull of a file into an empty directory costs, beside boto3, s5cmd, and a bare loop that verifies nothing.

From SeaweedFS through a whole registry, like compared with like: `client.pull` flushes what it wrote to the disk, which
others leave to the system, so both are measured both ways. Then the engine from a reference store that costs next to
nothing, with and without TLS, where the client is all that is measured. Ours verifies every byte.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

from benchmarks import peers, reference, stack, weights
from benchmarks.push import write_pieces
from benchmarks.report import Report, Target
from benchmarks.rounds import Case, Measured, Runs, interleave, run, same_bytes
from registry.storage.s3 import StoreConfig

MODEL = "bench/m"
FILE = "model.safetensors"
CPU_S = 1.7
PEAK_MB = 400.0

_OURS, _BOTO, _S5CMD, _BARE = "ours, unflushed", "boto3", "s5cmd", "bare GETs"
_PULL, _BOTO_FLUSHED, _S5CMD_FLUSHED = "ours (client.pull)", "boto3, flushed", "s5cmd, flushed"
_SENDFILE, _SENDFILE_BOTO = "sendfile: ours", "sendfile: boto3"
_SENDFILE_BARE = "sendfile: bare GETs"
_TLS, _TLS_BOTO = "TLS: ours", "TLS: boto3"


def measure(folder: Path, *, full: bool) -> Report:
    """Pull from every store by every side."""
    size, rounds = (1 << 30, 5) if full else (192 << 20, 3)
    runs, source = Runs(), folder / FILE
    size = weights.write(source, size, seed=1)
    target = folder / "pulled" / FILE
    prepare, compare = partial(_empty, target.parent), partial(_compare, source, target)
    with stack.registry(folder) as (server, bucket):
        cases = _cases(_job(server, bucket, target, size, folder), source)
        for case in cases:  # the first of each warms the store up
            run(case, before=prepare, after=compare)
        interleave(cases, rounds, runs=runs, before=prepare, after=compare)
        stack.reclaim(folder, bucket)
    write_pieces(source, folder / "pieces.json")
    for tls in (None, reference.certificate(folder)):
        with reference.serving(source, tls=tls) as endpoint:
            cases = _reference_cases(endpoint, target, size, folder, trusted=tls[0] if tls else None)
            interleave(cases, rounds, runs=runs, before=prepare, after=compare)
    return _report(runs, size)


def _job(server: stack.Server, bucket: StoreConfig, target: Path, size: int, folder: Path) -> dict[str, Any]:
    return {
        "url": server.url,
        "token": stack.TOKEN,
        "cache": str(folder / "cache"),
        "model": MODEL,
        "artifact": FILE,
        "size": size,
        "endpoint": bucket.endpoint_url,
        "access_key": bucket.access_key,
        "secret_key": bucket.secret_key,
        "bucket": bucket.bucket,
        "key": "whole",
        "s5cmd": str(peers.environment() / "s5cmd"),
        "target": str(target),
    }


def _cases(job: Mapping[str, Any], source: Path) -> list[Case]:
    """Every side, after what they pull was pushed: our version, and one object for the others."""
    pushed = run(Case("push ours", "ours.push", {**job, "source": str(source)}))
    run(Case("push boto3", "others.boto_upload", {**job, "source": str(source)}))
    mine = {**job, "ref": pushed.facts["ref"]}
    flushed = {**job, "flush": True}
    return [
        Case(_BOTO, "others.boto_download", job),
        Case(_S5CMD, "others.s5cmd_download", job),
        Case(_BARE, "others.bare_get", job),
        Case(_OURS, "ours.pull_unflushed", mine),
        Case(_PULL, "ours.pull", {**mine, "target": str(Path(job["target"]).parent)}),
        Case(_BOTO_FLUSHED, "others.boto_download", flushed),
        Case(_S5CMD_FLUSHED, "others.s5cmd_download", flushed),
    ]


def _reference_cases(endpoint: str, target: Path, size: int, folder: Path, *, trusted: Path | None) -> list[Case]:
    job = {"endpoint": endpoint, "bucket": "bucket", "key": "whole", "target": str(target), "size": size}
    job["pieces"] = str(folder / "pieces.json")
    environ = {}
    if trusted:
        job["trusted"] = str(trusted)
        environ["SSL_CERT_FILE"] = str(trusted)
    ours = Case(_TLS if trusted else _SENDFILE, "ours.pull_from_reference", job, environ)
    boto = replace(ours, label=_TLS_BOTO if trusted else _SENDFILE_BOTO, side="others.boto_download")
    bare = replace(ours, label=_SENDFILE_BARE, side="others.bare_get")
    return [ours, boto] if trusted else [ours, boto, bare]


def _empty(folder: Path, _: Case) -> None:
    rmtree(folder, ignore_errors=True)
    rmtree(folder.parent / "cache", ignore_errors=True)


def _compare(source: Path, target: Path, _: Case, __: Measured) -> None:
    same_bytes(source, target)


def _report(runs: Runs, size: int) -> Report:
    report = Report(
        f"pull of {size >> 20} MiB into an empty directory, median of {len(runs[_OURS])} rounds",
        ("", "MB/s", "× boto3", "× s5cmd", "× bare", "CPU s/GiB", "peak MB", "seconds"),
    )
    bases = {
        **dict.fromkeys((_OURS, _BOTO, _S5CMD, _BARE), (_BOTO, _S5CMD, _BARE)),
        **dict.fromkeys((_PULL, _BOTO_FLUSHED, _S5CMD_FLUSHED), (_BOTO_FLUSHED, _S5CMD_FLUSHED, "")),
        **dict.fromkeys((_SENDFILE, _SENDFILE_BOTO, _SENDFILE_BARE), (_SENDFILE_BOTO, "", _SENDFILE_BARE)),
        **dict.fromkeys((_TLS, _TLS_BOTO), (_TLS_BOTO, "", "")),
    }
    report.rows += [runs.row(label, size, *bases[label]) for label in runs]
    cpu = max(runs.cpu(label) for label in (_OURS, _PULL)) * 2**30 / size
    peak = max(runs.peak(label) for label in (_OURS, _PULL, _SENDFILE, _TLS))
    report.targets += [
        Target("times boto3's download_file", runs.times(_BOTO, _OURS), 1.7, at_least=True),
        Target("times boto3's, both flushed", runs.times(_BOTO_FLUSHED, _PULL), 1.7, at_least=True),
        Target("times s5cmd", runs.times(_S5CMD, _OURS), 1.3, at_least=True),
        Target("times s5cmd, both flushed", runs.times(_S5CMD_FLUSHED, _PULL), 1.3, at_least=True),
        Target("times the bare GETs", runs.times(_BARE, _OURS), 0.75, at_least=True),
        Target("sendfile: times boto3's", runs.times(_SENDFILE_BOTO, _SENDFILE), 2.5, at_least=True),
        Target("TLS: times boto3's", runs.times(_TLS_BOTO, _TLS), 3.0, at_least=True),
        Target("CPU s/GiB, the worse of the two", cpu, CPU_S, at_least=False),
        Target("peak client memory, MB", peak, PEAK_MB, at_least=False),
    ]
    unflushed = runs.times(_BOTO, _PULL)
    report.notes.append(f"client.pull, which flushes, to boto3's download_file, which does not: {unflushed:.2f} ×")
    return report
