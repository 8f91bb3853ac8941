"""Many clients ask, approve and go back at once, with gates and approvals on: one line, one holder, all on record.

`make soak` runs them at full size.
"""

import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import insert

from registry.db.tables import Metric
from tests.support.factories import make_model, make_versions
from tests.support.world import T0, Http

CLIENTS = 32
READERS = 4
VERSIONS = 50
PRODUCTION = "/models/vision/yolo/stages/production"
POLICY: dict[str, Any] = {
    "gates": [
        {"kind": "verified"},
        {"kind": "metric", "metric": "mAP", "op": ">=", "value": 0.1},
        {"kind": "fresh", "days": 100_000},
    ],
    "approvals": {"required": 1},
}


@dataclass(frozen=True, slots=True)
class Scale:
    promotions: int
    rollbacks: int


SMALL = pytest.param(Scale(64, 8), id="small")
FULL = pytest.param(Scale(1_000, 100), id="full", marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])


@pytest.fixture(autouse=True)
def model(app, database, http):
    with database.transaction() as session:
        versions = make_versions(session, make_model(session, "vision/yolo"), VERSIONS)
        # Every tenth is not good enough.
        values = [0.05 if version.number % 10 == 0 else 0.5 for version in versions]
        rows = [
            {"version_id": version.id, "name": "mAP", "value": value, "recorded_by": "ana", "recorded_at": T0}
            for version, value in zip(versions, values, strict=True)
        ]
        session.execute(insert(Metric), rows)
    assert http.put(f"{PRODUCTION}/policy", json=POLICY).status_code == 200


@pytest.fixture
def crew(make_token):
    return [make_token(name, "promoter", "vision") for name in ("rita", "pat", "pia", "paul")]


def ask(http: Http, turn: int, crew: list[str], goes_back: bool) -> list[Any]:
    """Ask for a version or to go back, and have another approve it; gives every answer."""
    requester, approver = crew[turn % 4], crew[(turn + 1) % 4]
    if goes_back:
        asked = http.post(f"{PRODUCTION}/rollback", json={"message": f"turn {turn}"}, token=requester)
    else:
        sent = {"version": turn % VERSIONS + 1, "message": f"turn {turn}"}
        asked = http.post(f"{PRODUCTION}/promotions", json=sent, token=requester)
    answers = [asked]
    if asked.status_code == 202:
        body: Any = asked.json
        answers.append(http.post(f"/promotions/{body['id']}/approve", json={}, token=approver))
    return answers


@pytest.mark.parametrize("scale", [SMALL, FULL])
def test_with_gates_and_approvals_on_the_history_is_one_line_and_every_decision_is_kept(
    http: Http, crew: list[str], scale: Scale
):
    seed = ask(http, 0, crew, goes_back=False) + ask(http, 1, crew, goes_back=False)
    assert [answer.status_code for answer in seed] == [202, 200] * 2
    every = scale.promotions // scale.rollbacks
    turns = [(turn, False) for turn in range(2, scale.promotions)]
    turns += [(turn * every, True) for turn in range(scale.rollbacks)]
    turns.sort()
    left, taking, over = iter(turns), threading.Lock(), threading.Event()

    def move(_client: int) -> list[Any]:
        made: list[Any] = []
        while True:
            with taking:
                turn = next(left, None)
            if turn is None:
                return made
            made += ask(http, turn[0], crew, goes_back=turn[1])

    def watch(_reader: int) -> list[tuple[int | None, int]]:
        seen: list[tuple[int | None, int]] = []
        while not over.wait(0.005):
            answer = http.get(PRODUCTION)
            assert answer.status_code == 200, answer.text
            stage: Any = answer.json
            seen.append((stage["version"], stage["seq"]))
        return seen

    with ThreadPoolExecutor(CLIENTS + READERS) as pool:
        watching = [pool.submit(watch, reader) for reader in range(READERS)]
        try:
            moving = [pool.submit(move, client) for client in range(CLIENTS)]
            answers = seed + list(itertools.chain.from_iterable(done.result() for done in moving))
        finally:
            over.set()
    statuses = Counter((answer.status_code, (answer.json or {}).get("code")) for answer in answers)
    assert {status for status, _ in statuses} <= {200, 202, 409, 422}, statuses
    assert {code for _, code in statuses} <= {None, "GATES_FAILED", "NOTHING_TO_ROLL_BACK"}, statuses

    history = http.items(f"{PRODUCTION}/history", limit=1_000)[::-1]
    assert [entry["seq"] for entry in history] == list(range(1, len(history) + 1))
    assert [entry["previous"] for entry in history] == [None, *(entry["version"] for entry in history[:-1])]
    assert [entry["at"] for entry in history] == sorted(entry["at"] for entry in history)
    assert all(entry["by"] not in entry["approved_by"] and len(entry["approved_by"]) == 1 for entry in history)

    by_seq = {entry["seq"]: entry["version"] for entry in history}
    seen = list(itertools.chain.from_iterable(watched.result() for watched in watching))
    assert all(by_seq[seq] == holder for holder, seq in seen)
    present: Any = http.get(PRODUCTION).json
    assert (present["version"], present["seq"]) == (history[-1]["version"], len(history))

    # Whatever was asked is on record with what every gate said, also what was refused.
    records = http.items(f"{PRODUCTION}/promotions", limit=1_000)
    by_state = Counter(record["state"] for record in records)
    assert by_state["applied"] == len(history)
    assert by_state["failed"] == statuses[422, "GATES_FAILED"] > 0
    assert len(records) == scale.promotions + scale.rollbacks - statuses[409, "NOTHING_TO_ROLL_BACK"]
    for record in records:
        kinds = [gate["kind"] for gate in record["gates"]]
        assert kinds == ([] if record["kind"] == "rollback" else ["verified", "metric", "fresh"])
        assert (record["seq"] is None) == (record["state"] != "applied")
        bad = record["kind"] == "promote" and record["version"] % 10 == 0
        assert (record["state"] == "failed") == bad
        assert [gate["passed"] for gate in record["gates"]].count(False) == bad


@pytest.mark.parametrize("approvers", [2, 8])
def test_the_last_of_two_approvals_applies_it_once_whoever_is_first(http: Http, make_token: Any, approvers: int):
    assert http.put(f"{PRODUCTION}/policy", json=POLICY | {"approvals": {"required": 2}}).status_code == 200
    requester = make_token("rita", "promoter", "vision")
    tokens = [make_token(f"p{number}", "promoter", "vision") for number in range(approvers)]
    body: Any = http.post(f"{PRODUCTION}/promotions", json={"version": 1}, token=requester).json
    start = threading.Barrier(approvers)

    def approve(token: str) -> Any:
        start.wait()
        return http.post(f"/promotions/{body['id']}/approve", json={}, token=token)

    with ThreadPoolExecutor(approvers) as pool:
        answers = list(pool.map(approve, tokens))
    statuses = Counter(answer.status_code for answer in answers)
    assert (statuses[202], statuses[200], statuses[409]) == (1, 1, approvers - 2)
    [entry] = http.items(f"{PRODUCTION}/history")
    assert len(entry["approved_by"]) == 2


def test_a_stage_is_frozen_between_two_requests_or_not_at_all(http: Http, crew: list[str]):
    """Whoever promotes while the policy changes is judged by the one or by the other."""
    policies = [{"gates": [], "freeze": "the fair"}, {"gates": []}]
    over = threading.Event()

    def change() -> int:
        turn = 0
        while not over.is_set():
            assert http.put(f"{PRODUCTION}/policy", json=policies[turn % 2]).status_code == 200
            turn += 1
        return turn

    def promote(client: int) -> list[int]:
        sent = [{"version": (client + turn) % VERSIONS + 1} for turn in range(6)]
        return [http.post(f"{PRODUCTION}/promotions", json=each, token=crew[client % 4]).status_code for each in sent]

    with ThreadPoolExecutor(9) as pool:
        changing = pool.submit(change)
        found = list(itertools.chain.from_iterable(pool.map(promote, range(8))))
        over.set()
    assert changing.result() > 0
    assert set(found) <= {201, 202, 409}
    records = http.items(f"{PRODUCTION}/promotions", limit=1_000)
    assert Counter(record["state"] for record in records)["applied"] == found.count(201)
    revisions = {each["revision"]: each["policy"] for each in http.items(f"{PRODUCTION}/policy/revisions", limit=1_000)}
    applied = [record for record in records if record["state"] == "applied"]
    assert not any("freeze" in revisions[record["policy_revision"]] for record in applied)
