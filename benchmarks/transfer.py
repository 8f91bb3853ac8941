"""Push and pull of one artifact: this client's engine against boto3's `upload_file` and `download_file` defaults.

One embedded SeaweedFS, one file of random bytes, the sides interleaved in turned order, each measurement in a process
of its own. A push of ours hashes every segment and the whole file, signs and PUTs; a pull of ours verifies every
segment (boto3 verifies nothing). `client.pull` also flushes the file to the disk, which boto3 leaves to the caller:
both are measured both ways, and like is compared with like.
The clock and the CPU seconds run from the first byte read to the last call's return: imports are not counted.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SEGMENT = 4 << 20
_BLOCK = 16 << 20
SIDES = ("push boto3", "push ours", "pull boto3", "pull ours", "pull boto3, fsync", "pull ours, fsync")


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one side, in a process of its own."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Target:
    """What must hold, and what was found."""

    name: str
    found: float
    limit: float
    at_least: bool

    def met(self) -> bool:
        """Whether it holds."""
        return self.found >= self.limit if self.at_least else self.found <= self.limit


@dataclass(frozen=True, slots=True)
class Result:
    """All runs of all sides."""

    size: int
    runs: dict[str, list[Measured]]

    def middle(self, side: str, what: str) -> float:
        """The median of one figure."""
        return float(statistics.median(getattr(run, what) for run in self.runs[side]))

    def rate(self, side: str) -> float:
        """MB/s, by the median time."""
        return self.size / 1e6 / self.middle(side, "seconds")

    def ratio(self, side: str) -> float:
        """How many times boto3's speed: the median of the rounds' own ratios, since noise comes in waves."""
        return self._ratio(side.replace("ours", "boto3"), side)

    def _ratio(self, base: str, side: str) -> float:
        return statistics.median(
            theirs.seconds / ours.seconds for theirs, ours in zip(self.runs[base], self.runs[side], strict=True)
        )

    def targets(self) -> list[Target]:
        """What the project promises of its transfers."""
        peak = max(run.peak_bytes for side, runs in self.runs.items() if "ours" in side for run in runs)
        cpu = self.middle("pull ours", "cpu_seconds") / self.middle("pull boto3", "cpu_seconds")
        return [
            Target("push, times boto3's speed", self.ratio("push ours"), 1.2, at_least=True),
            Target("pull, times boto3's speed", self.ratio("pull ours"), 1.7, at_least=True),
            Target("pull and fsync, times boto3's", self.ratio("pull ours, fsync"), 1.7, at_least=True),
            Target("pull, times boto3's client CPU", cpu, 1.0, at_least=False),
            Target("peak client memory, MB", peak / 1e6, 400, at_least=False),
        ]

    def met(self) -> bool:
        """Whether every target holds."""
        return all(target.met() for target in self.targets())

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "bytes": self.size,
            "segment_bytes": SEGMENT,
            "sides": {
                side: {
                    "mb_per_s": round(self.rate(side), 1),
                    "times_boto3": round(self.ratio(side), 3),
                    "cpu_seconds": round(self.middle(side, "cpu_seconds"), 3),
                    "peak_mb": round(self.middle(side, "peak_bytes") / 1e6, 1),
                    "seconds": [round(run.seconds, 3) for run in runs],
                }
                for side, runs in self.runs.items()
            },
            "targets": [
                {"name": target.name, "found": round(target.found, 3), "limit": target.limit, "met": target.met()}
                for target in self.targets()
            ],
        }

    def table(self) -> str:
        """For people."""
        rounds = len(self.runs[SIDES[0]])
        lines = [
            f"{self.size >> 20} MiB in segments of {SEGMENT >> 20} MiB, SeaweedFS on loopback, median of {rounds}",
            f"{'':22}{'MB/s':>8}{'× boto3':>9}{'CPU s':>8}{'peak MB':>9}   seconds",
        ]
        for side, runs in self.runs.items():
            cpu, peak = self.middle(side, "cpu_seconds"), self.middle(side, "peak_bytes") / 1e6
            times = " ".join(f"{run.seconds:.2f}" for run in runs)
            lines.append(f"{side:22}{self.rate(side):8.0f}{self.ratio(side):9.2f}{cpu:8.2f}{peak:9.0f}   {times}")
        for target in self.targets():
            sign, verdict = "≥" if target.at_least else "≤", "met" if target.met() else "MISSED"
            lines.append(f"{target.name:32} {target.found:7.2f}  {sign} {target.limit:g}  {verdict}")
        flushed = self._ratio("pull boto3", "pull ours, fsync")
        lines.append(f"{'pull and fsync, to boto3 without':32} {flushed:7.2f}")
        return "\n".join(lines)


def measure(folder: Path, *, full: bool) -> Result:
    """Run every side several times against one store in `folder`."""
    size, rounds = (1 << 30, 5) if full else (256 << 20, 3)
    source = folder / "weights.bin"
    _fill(source, size)
    runs: dict[str, list[Measured]] = {side: [] for side in SIDES}
    with _store(folder) as job:
        job |= {"source": str(source), "target": str(folder / "pulled.bin"), "layout": str(folder / "layout.json")}
        # What is pulled is pushed first; these two also warm the store up and are not counted.
        for side in SIDES[:2]:
            _run(side, job | {"prefix": "kept"})
        for number in range(rounds):
            prefix = {"prefix": f"round-{number}"}
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                runs[side].append(_run(side, job | (prefix if side.startswith("push") else {"prefix": "kept"})))
            _empty(job, f"round-{number}")
    return Result(size, runs)


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK):
            file.write(os.urandom(min(_BLOCK, size - start)))


@contextmanager
def _store(folder: Path) -> Iterator[dict[str, str]]:
    from registry.embedded import seaweed  # noqa: PLC0415 - the measured processes import this module without it
    from registry.embedded.home import Home  # noqa: PLC0415
    from registry.storage.s3 import Store, StoreConfig  # noqa: PLC0415

    home = Home.open(folder / "home")
    listen = seaweed.Listen(seaweed.LOOPBACK, seaweed.free_ports(1)[0])
    child = seaweed.start(home, listen, environment=os.environ)
    try:
        seaweed.ready(home, child, listen, timeout_s=60)
        keys = home.credentials()
        job = {
            "endpoint": f"http://{seaweed.LOOPBACK}:{listen.port}",
            "access_key": keys.access_key,
            "secret_key": keys.secret_key,
            "bucket": "benchmark",
        }
        config = StoreConfig("benchmark", job["endpoint"], access_key=keys.access_key, secret_key=keys.secret_key)
        Store(config).ensure_bucket()
        yield job
    finally:
        seaweed.stop(child)


def _run(side: str, job: dict[str, str]) -> Measured:
    Path(job["target"]).unlink(missing_ok=True)
    # Nobody pays for what the one before left to be written.
    os.sync()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.transfer", side],
        cwd=Path(__file__).parents[1],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{side} failed: {done.stderr}")
    if side.startswith("pull"):
        _same(Path(job["source"]), Path(job["target"]))
    found = Measured(**json.loads(done.stdout))
    print(f"  {side}: {found.seconds:.2f} s", file=sys.stderr)
    return found


def _same(one: Path, other: Path) -> None:
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(_BLOCK):
            assert block == right.read(_BLOCK), "the pulled file differs"
        assert not right.read(1), "the pulled file is longer"


def _empty(job: dict[str, str], prefix: str) -> None:
    client = _boto(job)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=job["bucket"], Prefix=f"{prefix}/")
    for page in pages:
        keys = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
        client.delete_objects(Bucket=job["bucket"], Delete={"Objects": keys})


# The measured processes


def _boto(job: dict[str, str]) -> Any:
    import boto3  # noqa: PLC0415 - only the side that is measured with it pays for it

    return boto3.client(
        "s3",
        endpoint_url=job["endpoint"],
        aws_access_key_id=job["access_key"],
        aws_secret_access_key=job["secret_key"],
        region_name="us-east-1",
    )


def _push_boto(job: dict[str, str]) -> Callable[[], None]:
    client = _boto(job)
    return lambda: client.upload_file(job["source"], job["bucket"], f"{job['prefix']}/whole")


def _pull_boto(job: dict[str, str], *, durable: bool = False) -> Callable[[], None]:
    client = _boto(job)

    def pull() -> None:
        client.download_file(job["bucket"], f"{job['prefix']}/whole", job["target"])
        if durable:
            with Path(job["target"]).open("rb+") as file:
                os.fsync(file.fileno())

    return pull


def _sign(job: dict[str, str], method: str, sha256: str, headers: dict[str, str]) -> str:
    from registry.storage.presign import Identity, Target, presign  # noqa: PLC0415

    parts = urlsplit(job["endpoint"])
    target = Target(parts.scheme, parts.netloc, f"/{job['bucket']}", "us-east-1")
    identity = Identity(job["access_key"], job["secret_key"])
    key = f"{job['prefix']}/{sha256}"
    return presign(target, identity, method=method, key=key, headers=headers, expires=3600, at=datetime.now(UTC))


def _push_ours(job: dict[str, str]) -> Callable[[], None]:
    from base64 import b64encode  # noqa: PLC0415

    from registry.client._hashing import Piece, hashing  # noqa: PLC0415
    from registry.client._upload import Put, upload  # noqa: PLC0415

    source = Path(job["source"])

    def put(piece: Piece) -> Put:
        headers = {
            "content-length": str(piece.size),
            "if-none-match": "*",
            "x-amz-checksum-sha256": b64encode(bytes.fromhex(piece.sha256)).decode(),
        }
        url = _sign(job, "PUT", piece.sha256, headers)
        return Put(source, piece.offset, piece.size, piece.sha256, url, headers)

    def push() -> None:
        size = source.stat().st_size
        spans = [(start, min(SEGMENT, size - start)) for start in range(0, size, SEGMENT)]
        with hashing([(source, spans)]) as work:
            upload((put(piece) for _, piece in work), refresh=lambda put: put)
            (file,) = work.files()
        layout = [[piece.offset, piece.size, piece.sha256] for piece in file.pieces]
        Path(job["layout"]).write_text(json.dumps(layout), encoding="utf-8")

    return push


def _pull_ours(job: dict[str, str], *, durable: bool) -> Callable[[], None]:
    from registry.client._download import fetch_file  # noqa: PLC0415
    from registry.client._hashing import Piece  # noqa: PLC0415

    def pull() -> None:
        pieces = [Piece(*entry) for entry in json.loads(Path(job["layout"]).read_text(encoding="utf-8"))]
        fetch_file(
            Path(job["target"]),
            pieces,
            lambda wanted: {piece.sha256: _sign(job, "GET", piece.sha256, {}) for piece in wanted},
            size=sum(piece.size for piece in pieces),
            durable=durable,
        )

    return pull


_SIDES: dict[str, Callable[[dict[str, str]], Callable[[], None]]] = {
    "push boto3": _push_boto,
    "push ours": _push_ours,
    "pull boto3": _pull_boto,
    "pull ours": partial(_pull_ours, durable=False),
    "pull boto3, fsync": partial(_pull_boto, durable=True),
    "pull ours, fsync": partial(_pull_ours, durable=True),
}


def _peak() -> int:
    # Not `ru_maxrss` where it can be helped: on Linux that starts at what the process that started this one had.
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> None:
    """Do one side of one round and print what it took."""
    job = json.load(sys.stdin)
    action = _SIDES[sys.argv[1]](job)
    before, start = time.process_time(), time.perf_counter()
    action()
    seconds, cpu = time.perf_counter() - start, time.process_time() - before
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": _peak()}))


if __name__ == "__main__":
    main()
