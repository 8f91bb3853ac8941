from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from registry.domain.audit import GENESIS, Action, Event, event_time, verify
from registry.services import audit, chains
from tests.support.world import T0


def chain(session, name):
    return [
        Event(
            row.chain,
            row.seq,
            row.actor,
            row.action,
            row.subject,
            event_time(row.at),
            row.detail,
            row.previous_hash,
            row.hash,
        )
        for row in chains.page_of_events(session, name, after=0, limit=1000)
    ]


def record(session, actor, number, name="vision"):
    return audit.record(
        session,
        actor,
        Action.MODEL_UPDATE,
        f"{name}/yolo",
        {"number": number, "text": "naïve ✓", "ratio": 0.1, "nothing": None, "list": [1, "2"]},
        chain=name,
        now=T0 + timedelta(microseconds=number),
    )


def test_events_are_numbered_from_one_and_chained(session, admin):
    first, second = record(session, admin, 1), record(session, admin, 2)
    assert (first.seq, first.previous_hash) == (1, GENESIS)
    assert (second.seq, second.previous_hash) == (2, first.hash)
    assert (first.actor, first.action, first.subject, first.at) == (
        "admin", "model:update", "vision/yolo", T0 + timedelta(microseconds=1),
    )  # fmt: skip


def test_what_the_database_gives_back_is_what_was_hashed(database, admin):
    with database.transaction() as session:
        for number in range(5):
            record(session, admin, number)
    with database.transaction(read_only=True) as session:
        assert verify(chain(session, "vision")) is None
        assert verify(chain(session, "_system")) is None


def test_a_change_of_what_was_written_shows(database, admin):
    with database.transaction() as session:
        for number in range(5):
            record(session, admin, number)
        chains.page_of_events(session, "vision", after=2, limit=1)[0].actor = "somebody"
    with database.transaction(read_only=True) as session:
        assert verify(chain(session, "vision")) == 3


def test_namespaces_have_chains_of_their_own(session, admin):
    record(session, admin, 1, "vision")
    assert record(session, admin, 1, "audio").seq == 1
    assert record(session, admin, 2, "vision").seq == 2


def test_a_transaction_that_fails_leaves_no_event_and_no_gap(database, admin):
    def fail():
        with database.transaction() as session:
            record(session, admin, 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.transaction() as session:
        assert record(session, admin, 2).seq == 1


def test_events_at_the_same_time_form_one_chain(database, admin):
    def act(number):
        with database.transaction() as session:
            record(session, admin, number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(act, range(40)))
    with database.transaction(read_only=True) as session:
        found = chain(session, "vision")
        assert [event.seq for event in found] == list(range(1, 41))
        assert verify(found) is None
        assert sorted(event.detail["number"] for event in found) == list(range(40))


def test_events_are_paged_oldest_first(session, admin):
    for number in range(5):
        record(session, admin, number)
    assert [row.seq for row in chains.page_of_events(session, "vision", after=0, limit=2)] == [1, 2]
    assert [row.seq for row in chains.page_of_events(session, "vision", after=3, limit=9)] == [4, 5]
    assert chains.page_of_events(session, "nothing", after=0, limit=9) == []
