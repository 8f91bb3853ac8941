"""What a server that serves a model asks all day: which version is in production? Beside MLflow's version by alias.

Ten thousand versions in the model, the same load generator, the same machine, the sides in turned order round after
round. Ours runs as `registry api` does by default, on PostgreSQL and on SQLite; MLflow as `mlflow server` does.
"""

import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import peers, stack
from benchmarks.filling import HELD, MODEL, filled
from benchmarks.generator import Load, load
from benchmarks.report import Report, Target

TIMES = 10.0
CONNECTIONS = (8, 32)
_OURS, _OURS_SQLITE = "ours, PostgreSQL", "ours, SQLite"
_THEIRS, _THEIRS_SQLITE = "MLflow, PostgreSQL", "MLflow, SQLite"


@dataclass(frozen=True, slots=True)
class Side:
    """A server under load, and how to ask it."""

    server: stack.Server
    url: str
    headers: Mapping[str, str]
    database: int | None
    """The process id of its database server, if it has one."""

    def cpu_seconds(self) -> float:
        """Processor time so far of the server and of its database."""
        if self.database is None:
            return self.server.cpu_seconds()
        postmaster = psutil.Process(self.database)
        times = [process.cpu_times() for process in (postmaster, *postmaster.children(recursive=True))]
        return self.server.cpu_seconds() + sum(each.user + each.system for each in times)


@dataclass(frozen=True, slots=True)
class Round:
    """One run of the generator against one side."""

    load: Load
    cpu_seconds: float


def measure(folder: Path, *, full: bool) -> Report:
    """Start every side, warm it up, and load one after the other."""
    versions, rounds, seconds = (10_000, 5, 10.0) if full else (10_000, 3, 3.0)
    with _sides(folder, versions) as sides:
        for side in sides.values():
            load(side.url, headers=side.headers, connections=8, seconds=2)
        found: dict[tuple[str, int], list[Round]] = {(name, at): [] for name in sides for at in CONNECTIONS}
        for number in range(rounds):
            for at in CONNECTIONS:
                for name in sides if number % 2 == 0 else reversed(sides):
                    found[name, at].append(_round(name, sides[name], at, seconds))
    return _report(found, versions, rounds, seconds)


@contextmanager
def _sides(folder: Path, versions: int) -> Iterator[dict[str, Side]]:
    held, bearer = min(HELD, versions), {"Authorization": f"Bearer {stack.TOKEN}"}
    with ExitStack() as opened:
        sides = {}
        for ours, theirs, on_postgres in ((_OURS, _THEIRS, True), (_OURS_SQLITE, _THEIRS_SQLITE, False)):
            place = folder / ("postgres" if on_postgres else "sqlite")
            place.mkdir()
            url, pid = opened.enter_context(_database(place, on_postgres=on_postgres))
            opened.enter_context(filled(url, versions))
            api = opened.enter_context(stack.api(url, place / "ours"))
            sides[ours] = Side(api, f"{api.url}/api/v1/resolve?ref={MODEL}@production", bearer, pid)
            other_url, other_pid = opened.enter_context(_database(place / "peer", on_postgres=on_postgres))
            server = opened.enter_context(peers.mlflow(other_url, place / "mlflow", versions=versions, held=held))
            sides[theirs] = Side(server, peers.by_alias(server), {}, other_pid)
        yield sides


@contextmanager
def _database(folder: Path, *, on_postgres: bool) -> Iterator[tuple[str, int | None]]:
    """The URL of a new database and the process that serves it; each side has a PostgreSQL of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    if not on_postgres:
        yield f"sqlite:///{folder / 'registry.db'}", None
        return
    with stack.postgres(folder) as server_url:
        pid = int((folder / "postgres" / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        yield stack.new_database(server_url), pid


def _round(name: str, side: Side, connections: int, seconds: float) -> Round:
    before = side.cpu_seconds()
    found = load(side.url, headers=side.headers, connections=connections, seconds=seconds)
    spent = side.cpu_seconds() - before
    print(f"  {name}, {connections} connections: {found.rate:.0f}/s", file=sys.stderr)
    return Round(found, spent)


def _report(found: Mapping[tuple[str, int], list[Round]], versions: int, rounds: int, seconds: float) -> Report:
    report = Report(
        f"production of {versions:,} versions, median of {rounds} rounds of {seconds:.0f} s",
        ("", "connections", "requests/s", "× MLflow", "p50 ms", "p99 ms", "CPU s/1,000"),
    )
    for (name, at), runs in found.items():
        times = _times(found, name, at)
        rate, p50, p99 = (
            statistics.median(getattr(run.load, what) for run in runs) for what in ("rate", "p50_ms", "p99_ms")
        )
        cpu = statistics.median(run.cpu_seconds / run.load.requests * 1000 for run in runs)
        report.rows.append((name, str(at), rate, times, p50, p99, cpu))
    report.targets += [
        Target(f"times MLflow's requests/s at {at}, PostgreSQL", _times(found, _OURS, at), TIMES, at_least=True)
        for at in CONNECTIONS
    ]
    report.notes.append("CPU seconds are those of server and database; × MLflow is against it on the same database.")
    return report


def _times(found: Mapping[tuple[str, int], list[Round]], name: str, at: int) -> float:
    """The median of the rounds' own ratios, since noise comes in waves."""
    base = name.replace("ours", "MLflow")
    return statistics.median(
        one.load.rate / other.load.rate for one, other in zip(found[name, at], found[base, at], strict=True)
    )
