"""Many training jobs publish to one model at once, through the real WSGI server: numbers are distinct and consecutive.

`make soak` runs it at full size.
"""

import http.client
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from tests.support.databases import fresh_postgres
from tests.support.live import TOKEN, Live, live_registry
from tests.support.pushing import artifact, digest, put

SMALL = pytest.param((16, 4), id="small")
FULL = pytest.param((64, 50), id="full", marks=[pytest.mark.soak, pytest.mark.timeout(1800)])


@pytest.fixture(params=["sqlite", "postgres"])
def live(request, tmp_path, s3_config):
    settings = {}
    if request.param == "postgres":
        settings["REGISTRY_DATABASE_URL"] = fresh_postgres(request.getfixturevalue("postgres_url"))
    with live_registry(tmp_path / "live", s3_config, **settings) as live:
        yield live


class Caller:
    """One training job's connection to the API; counts the statuses it gets."""

    def __init__(self, live: Live) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=120)
        self.statuses: Counter[int] = Counter()

    def post(self, path: str, body: dict[str, Any], method: str = "POST") -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        self.connection.request(method, f"/api/v1{path}", json.dumps(body), headers)
        answer = self.connection.getresponse()
        text = answer.read()
        self.statuses[answer.status] += 1
        assert answer.status < 400, text
        return json.loads(text)

    def push(self, model: str, data: bytes) -> int:
        upload = self.post("/uploads", {"model": model, "segments": [{"digest": digest(data), "size": len(data)}]})
        [item] = upload["items"]
        if item["status"] == "upload":
            assert put(item["url"], data, item["headers"])[0] in (200, 412)
            self.post(f"/uploads/{upload['id']}/segments", {"digests": [item["digest"]]}, "PATCH")
        version = self.post(f"/uploads/{upload['id']}/commit", {"artifacts": [artifact("last.bin", data)]})
        return int(version["number"])


@pytest.mark.parametrize("size", [SMALL, FULL])
def test_concurrent_pushes_get_distinct_consecutive_numbers_and_no_5xx(live: Live, size: tuple[int, int]):
    jobs, pushes = size
    gate = threading.Barrier(jobs)

    def work(job: int) -> tuple[list[int], Counter[int]]:
        caller = Caller(live)
        gate.wait()
        with closing(caller.connection):
            return [caller.push("race/m", f"{job}-{turn}".encode()) for turn in range(pushes)], caller.statuses

    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(work, range(jobs)))
    numbers = sorted(number for mine, _ in found for number in mine)
    statuses = sum((counted for _, counted in found), Counter())
    print(f"{len(numbers)} pushes by {jobs} threads: {dict(statuses)}")
    assert numbers == list(range(1, jobs * pushes + 1))
    assert not [status for status in statuses if status >= 500]
    with closing(live.client()) as client:
        published = sum(event.action == "version:publish" for event in client.events("race"))
    assert published == jobs * pushes
