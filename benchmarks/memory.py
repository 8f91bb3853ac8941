"""What stays small: the API's memory while a large file is pushed past it, and what `import registry` costs."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import registry
from benchmarks import stack
from benchmarks.report import Report, Target
from benchmarks.watch import Watch

GROWTH_MB = 32.0
IMPORT_MS = 150.0
_BLOCK = 16 << 20
_SERVER = ("alembic", "boto3", "dbos", "flask", "granian", "psycopg", "sqlalchemy", "structlog", "werkzeug")
_IMPORT = (
    "import sys, time; began = time.perf_counter(); import registry; took = time.perf_counter() - began; "
    "print(took, *sorted({name.partition('.')[0] for name in sys.modules}))"
)


def measure(folder: Path, *, full: bool) -> Report:
    """Push a large file while watching every process of the API; import the package in fresh processes."""
    size = (1 << 30) if full else (128 << 20)
    report = Report("memory and imports", ("", "before", "most", "growth"))
    with stack.store(folder) as bucket, _database(folder) as url, stack.api(url, folder, bucket=bucket) as server:
        client = registry.Client(server.url, stack.TOKEN, cache=folder / "cache")
        for number in range(4):  # what the first requests load is not growth
            client.push("bench/m", _file(folder / f"small-{number}.bin", 1 << 20))
        large, watch = _file(folder / "weights.bin", size), Watch(server)
        with watch.running():
            client.push("bench/m", large)
    for number, (before, most) in enumerate(watch.found.values()):
        report.rows.append((f"API process {number + 1}, MB", before / 1e6, most / 1e6, (most - before) / 1e6))
    growth = watch.growth() / 1e6
    took, loaded = _imported()
    report.rows.append(("import registry, ms", "", "", took))
    report.targets += [
        Target(f"growth of an API process for {size >> 20} MiB, MB", growth, GROWTH_MB, at_least=False),
        Target("import registry, ms", took, IMPORT_MS, at_least=False),
        Target("server packages imported with it", len(loaded), 0, at_least=False),
    ]
    return report


@contextmanager
def _database(folder: Path) -> Iterator[str]:
    url = f"sqlite:///{folder / 'registry.db'}"
    with stack.migrated(url):
        yield url


def _file(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK):
            file.write(os.urandom(min(_BLOCK, size - start)))
    return path


def _imported() -> tuple[float, set[str]]:
    """Milliseconds, the median of several fresh processes, and the server packages that came along."""
    taken, loaded = [], set[str]()
    for _ in range(7):
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT], cwd=stack.ROOT, capture_output=True, text=True, check=True
        )  # fmt: skip
        first, *names = done.stdout.split()
        taken.append(float(first) * 1000)
        loaded |= set(names) & set(_SERVER)
        time.sleep(0.05)
    return statistics.median(taken), loaded
