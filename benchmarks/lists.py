"""Whether a list costs the same wherever one is in it: its first page and its hundredth, with ten thousand of each.

Over HTTP from a running API, page 1 and page 100 asked in turn, on both databases.
"""

import http.client
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import stack
from benchmarks.filling import HELD, MODEL, filled
from benchmarks.report import Report, Target

LIMIT = 2.0
PAGE = 100
_COUNT = 10_000
_MODEL = f"/models/{MODEL}"


def measure(folder: Path, *, full: bool) -> Report:
    """Every list on every database."""
    asked = 101 if full else 25
    report = Report(
        f"lists of {_COUNT:,}, 50 a page, median of {asked} requests", ("", "list", "page 1 ms", "page 100 ms", "ratio")
    )
    for name, url in _databases(folder):
        with filled(url, _COUNT, everything=True), stack.api(url, folder) as server:
            for path in _lists(_COUNT):
                first, last = _pages(server, path, asked)
                report.rows.append((name, path.removeprefix(_MODEL), first, last, last / first))
    worst = max(float(row[4]) for row in report.rows)
    report.targets.append(Target("page 100 to page 1, the worst", worst, LIMIT, at_least=False))
    return report


def _databases(folder: Path) -> Iterator[tuple[str, str]]:
    with stack.postgres(folder) as server_url:
        yield "PostgreSQL", stack.new_database(server_url)
    yield "SQLite", f"sqlite:///{folder / 'registry.db'}"


def _lists(count: int) -> tuple[str, ...]:
    held = min(HELD, count)
    return (
        f"{_MODEL}/versions",
        f"{_MODEL}/versions?kind=release",
        f"{_MODEL}/aliases",
        f"{_MODEL}/stages/production/history",
        f"{_MODEL}/versions/{held}/metrics",
        f"{_MODEL}/versions/{held}/lineage?direction=down",
        "/events?namespace=vision",
        "/models",
    )


def _pages(server: stack.Server, path: str, asked: int) -> tuple[float, float]:
    """Median milliseconds of page 1 and of page 100."""
    joint = "&" if "?" in path else "?"
    first = f"/api/v1{path}{joint}limit=50"
    with _asking(server) as asking:
        cursor = ""
        for _ in range(PAGE - 1):
            following = json.loads(asking.text(first + cursor))["next"]
            assert following, f"{path} ends before page {PAGE}"
            cursor = f"&cursor={following}"
        times: dict[str, list[float]] = {first: [], first + cursor: []}
        for _ in range(asked):
            for url, taken in times.items():
                began = time.perf_counter()
                asking.text(url)
                taken.append((time.perf_counter() - began) * 1000)
    one, other = (statistics.median(taken) for taken in times.values())
    return one, other


class _Asking:
    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def text(self, url: str) -> bytes:
        self._connection.request("GET", url, headers={"Authorization": f"Bearer {stack.TOKEN}"})
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body


@contextmanager
def _asking(server: stack.Server) -> Iterator[_Asking]:
    parts = urlsplit(server.url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)) as connection:
        yield _Asking(connection)
