"""Many clients move one stage at once, over HTTP: its history stays a line, and every read sees one holder.

`make soak` runs them at full size.
"""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.factories import make_model, make_versions
from tests.support.world import Http, code

CLIENTS = 32
READERS = 8
MODEL = "/models/vision/yolo"
PRODUCTION = f"{MODEL}/stages/production"


@dataclass(frozen=True, slots=True)
class Scale:
    promotions: int
    reads: int
    rounds: int


SMALL = pytest.param(Scale(promotions=128, reads=512, rounds=3), id="small")
FULL = pytest.param(Scale(promotions=1_000, reads=10_000, rounds=50), id="full", marks=pytest.mark.soak)


@pytest.fixture(autouse=True)
def model(app, database):
    with database.transaction() as session:
        make_versions(session, make_model(session, "vision/yolo"), 2 * CLIENTS)


def share(clients: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of so many clients, begun at once, came back with."""
    gate = threading.Barrier(clients)

    def begin(client: int) -> Any:
        gate.wait()
        return work(client)

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(begin, range(clients)))


def promote(http: Http, version: int, **more: Any) -> Any:
    return http.post(f"{PRODUCTION}/promotions", json={"version": version} | more)


def read(http: Http, turn: int) -> tuple[int, int | None]:
    """The one holder there is and, where it is told, the seq at which it came to be; asked in each way there is."""
    if turn % 3 == 0:
        stage: Any = http.get(PRODUCTION).json
        return stage["version"], stage["seq"]
    if turn % 3 == 1:
        meant: Any = http.get("/resolve?ref=vision/yolo@production").json
        return meant["number"], None
    listed: Any = http.get(f"{MODEL}/versions?limit=1000").json
    [holder] = [item["number"] for item in listed["items"] if "production" in item["stages"]]
    return holder, None


@pytest.mark.parametrize("scale", [SMALL, FULL])
def test_a_history_is_one_line_and_every_read_sees_one_holder(http: Http, scale: Scale):
    assert promote(http, 1).status_code == 201
    turns, taking = iter(range(2, scale.promotions + 1)), threading.Lock()
    # Reads let promotions go on, so that the reads are spread over all of them.
    allowed, over = threading.Semaphore(CLIENTS), threading.Event()
    reads_each = math.ceil(scale.reads / (scale.promotions - 1 - CLIENTS))

    def move(_client: int) -> list[Any]:
        made: list[Any] = []
        while True:
            with taking:
                turn = next(turns, None)
            if turn is None:
                return made
            assert allowed.acquire(timeout=60)
            made.append(promote(http, turn % (2 * CLIENTS) + 1))

    def watch() -> list[tuple[int, int | None]]:
        seen: list[tuple[int, int | None]] = []
        while not over.is_set():
            seen.append(read(http, len(seen)))
            if len(seen) % reads_each == 0:
                allowed.release()
        return seen

    with ThreadPoolExecutor(READERS) as pool:
        watching = [pool.submit(watch) for _ in range(READERS)]
        try:
            found = share(CLIENTS, move)
        finally:
            over.set()
    answers = [answer for made in found for answer in made]
    assert {answer.status_code for answer in answers} == {201}
    history = http.items(f"{PRODUCTION}/history", limit=1_000)[::-1]
    assert [entry["seq"] for entry in history] == list(range(1, scale.promotions + 1))
    assert [entry["previous"] for entry in history] == [None, *(entry["version"] for entry in history[:-1])]
    assert [entry["at"] for entry in history] == sorted(entry["at"] for entry in history)
    by_seq = {entry["seq"]: entry["version"] for entry in history}
    assert {answer.json["seq"]: answer.json["version"] for answer in answers} | {1: 1} == by_seq
    seen = [each for watched in watching for each in watched.result()]
    assert len(seen) >= scale.reads
    assert all(holder in by_seq.values() if seq is None else holder == by_seq[seq] for holder, seq in seen)


@pytest.mark.parametrize("scale", [SMALL, FULL])
def test_of_those_who_expect_the_same_holder_one_wins_and_the_others_learn_who(http: Http, scale: Scale):
    holder = 0
    for turn in range(scale.rounds):
        expected, first = holder, 1 + CLIENTS * (turn % 2)  # nobody asks for the version that holds the stage
        answers = share(CLIENTS, lambda client: promote(http, first + client, expect=expected))  # noqa: B023 - ends here
        won = [answer for answer in answers if answer.status_code == 201]
        lost = [answer for answer in answers if answer.status_code != 201]
        assert [answer.json["seq"] for answer in won] == [turn + 1]
        holder = won[0].json["version"]
        assert {code(answer) for answer in lost} == {(409, "STAGE_MOVED")}
        assert {(answer.json["holder"], answer.json["seq"]) for answer in lost} == {(holder, turn + 1)}
        assert read(http, 0) == (holder, turn + 1)
