"""Many training jobs that push tiny versions to one model at the same moment: how many a second, and how long each.

Every push is the whole protocol: begin, PUT to the store, report, commit. The jobs are threads of a process of their
own; the API runs as `registry api` does by default, on both databases, before one SeaweedFS.
"""

import hashlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import stack
from benchmarks.filling import filled
from benchmarks.report import Report, Target

MODEL = "race/m"
_STEPS = ("begin", "put", "report", "commit")


@dataclass(slots=True)
class Seen:
    """What the jobs saw: numbers they were given, statuses, and milliseconds by step."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    numbers: list[int] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    taken: dict[str, list[float]] = field(default_factory=dict)


def measure(folder: Path, *, full: bool) -> Report:
    """The race on every database."""
    jobs, pushes = (64, 50) if full else (16, 12)
    report = Report(
        f"{jobs} jobs × {pushes} pushes of one tiny file to one model",
        ("", "pushes/s", "p50 ms", "p99 ms", *(f"{step} p50" for step in _STEPS), "API CPU ms", "client CPU ms"),
    )
    with stack.store(folder) as bucket:
        for name, url in _databases(folder):
            with filled(url, 1), stack.api(url, folder, bucket=bucket) as server:
                before = server.cpu_seconds()
                seen = _race(server.url, jobs, pushes)
                cpu = server.cpu_seconds() - before
            count = jobs * pushes
            whole = statistics.quantiles(seen.taken["push"], n=100)
            steps = (statistics.median(seen.taken[step]) for step in _STEPS)
            own = seen.cpu_seconds / count * 1000
            report.rows.append((
                name, count / seen.seconds, whole[49], whole[98], *steps, cpu / count * 1000, own
            ))  # fmt: skip
            consecutive = sorted(seen.numbers) == list(range(1, count + 1))
            failed = sum(number for status, number in seen.statuses.items() if int(status) >= 400)
            report.targets += [
                Target(f"{name}: numbers distinct and consecutive", float(consecutive), 1, at_least=True),
                Target(f"{name}: refused or failed requests", failed, 0, at_least=False),
            ]
            report.notes.append(f"{name}: {dict(sorted(seen.statuses.items()))}")
    return report


def _databases(folder: Path) -> Iterator[tuple[str, str]]:
    with stack.postgres(folder) as server_url:
        yield "PostgreSQL", stack.new_database(server_url)
    yield "SQLite", f"sqlite:///{folder / 'registry.db'}"


def _race(url: str, jobs: int, pushes: int) -> Seen:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.publish", url, str(jobs), str(pushes)],
        cwd=stack.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Seen(**json.loads(done.stdout))


# The process of the jobs


class _Job:
    """One training job: its connections, and what it saw."""

    def __init__(self, url: str) -> None:
        self._api = _connection(url)
        self._store: http.client.HTTPConnection | None = None
        self.statuses: Counter[str] = Counter()
        self.taken: dict[str, list[float]] = {step: [] for step in (*_STEPS, "push")}

    def push(self, data: bytes) -> int:
        """One tiny version, and its number, which is 0 if anything was refused."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        segments = [{"digest": digest, "size": len(data)}]
        artifact = {"path": "last.bin", "size": len(data), "digest": digest, "segments": segments}
        with self._timed("push"):
            with self._timed("begin"):
                upload = self._call("POST", "/uploads", {"model": MODEL, "segments": segments})
            if not upload:
                return 0
            [item] = upload["items"]
            with self._timed("put"):
                self._put(item["url"], item["headers"], data)
            with self._timed("report"):
                self._call("PATCH", f"/uploads/{upload['id']}/segments", {"digests": [digest]})
            with self._timed("commit"):
                version = self._call("POST", f"/uploads/{upload['id']}/commit", {"artifacts": [artifact]})
        return int(version["number"]) if version else 0

    def close(self) -> None:
        """End its connections."""
        self._api.close()
        if self._store is not None:
            self._store.close()

    def _call(self, method: str, path: str, body: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {stack.TOKEN}", "Content-Type": "application/json"}
        self._api.request(method, f"/api/v1{path}", json.dumps(body), headers)
        answer = self._api.getresponse()
        text = answer.read()
        self.statuses[str(answer.status)] += 1
        return json.loads(text) if answer.status < 400 else None

    def _put(self, url: str, headers: dict[str, str], data: bytes) -> None:
        self._store = self._store or _connection(url)
        parts = urlsplit(url)
        self._store.request("PUT", f"{parts.path}?{parts.query}", data, headers)
        answer = self._store.getresponse()
        text = answer.read()
        assert answer.status == 200, text

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.taken[step].append((time.perf_counter() - began) * 1000)


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)


def _run(url: str, jobs: int, pushes: int) -> Seen:
    gate, found = threading.Barrier(jobs + 1), [_Job(url) for _ in range(jobs)]

    def work(number: int) -> list[int]:
        gate.wait()
        with closing(found[number]):
            return [found[number].push(os.urandom(16)) for _ in range(pushes)]

    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(work, number) for number in range(jobs)]
        gate.wait()
        began, before = time.perf_counter(), time.process_time()
        numbers = [number for each in running for number in each.result()]
        seconds, cpu = time.perf_counter() - began, time.process_time() - before
    statuses: Counter[str] = sum((job.statuses for job in found), Counter())
    taken = {step: [one for job in found for one in job.taken[step]] for step in found[0].taken}
    return Seen(seconds, cpu, numbers, dict(statuses), taken)


def main() -> None:
    """Be the jobs and print what they saw."""
    seen = _run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({name: getattr(seen, name) for name in Seen.__slots__}))


if __name__ == "__main__":
    main()
