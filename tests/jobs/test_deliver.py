"""The dispatcher, with real receivers: what arrives, in which order, how soon, and who has to wait for whom."""

import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import select

from registry.db.session import now
from registry.db.tables import DeliveryAttempt
from registry.domain.audit import Action
from registry.domain.targets import Allowed
from registry.jobs.deliver import EACH, SLOTS, SLOW_S, SLOW_SHARE, Dispatcher, Slots
from registry.services import audit, webhooks
from registry.services.actors import SYSTEM
from tests.support.chaos import until
from tests.support.receiver import Receiver, receiving

LOOPBACK = Allowed.of(["127.0.0.1"])
QUICK = [timedelta(seconds=0.05)] * 9


def subscribe(database, admin, receiver, path="/hook"):
    with database.transaction() as session:
        found, secret = webhooks.create(
            session,
            admin,
            "default",
            receiver.url(path),
            allowed=LOOPBACK,
            actions=["model:update"],
            now=now(session),
        )
    receiver.secret = secret
    return found.row.id


def happen(database, subject="default/yolo"):
    with database.transaction() as session:
        event = audit.record(session, SYSTEM, Action.MODEL_UPDATE, subject, chain="default", now=now(session))
    return event.seq


def dispatching(database, **more):
    return Dispatcher(database, LOOPBACK, **{"schedule": QUICK, **more}).running()


def test_an_event_arrives_signed_within_two_seconds_of_its_commit(database, admin):
    with receiving(Receiver()) as receiver, dispatching(database):
        webhook = subscribe(database, admin, receiver)
        time.sleep(0.7)  # the dispatcher is asleep
        committed = time.monotonic()
        seq = happen(database)
        until(lambda: receiver.messages != [], "it arrived", patience_s=20)
        assert time.monotonic() - committed < 2
        assert [(each.seq, each.subject, each.status) for each in receiver.messages] == [(seq, "default/yolo", 204)]
        assert receiver.problems == []

        def attempts():
            with database.transaction(read_only=True) as session:
                return [(each.status, each.error) for each in session.scalars(select(DeliveryAttempt))]

        until(lambda: attempts() == [(204, None)], "it is in the log", patience_s=20)
        with database.transaction(read_only=True) as session:
            found = webhooks.find(session, admin, webhook)
            assert [each.state for each, _ in webhooks.page_of_deliveries(session, found, limit=9)] == ["delivered"]


def test_what_fails_is_sent_again_in_order(database, admin):
    def answer(body, before):
        return 503 if before < 2 and body["data"]["seq"] % 2 else 200

    with receiving(Receiver(answer)) as receiver:
        subscribe(database, admin, receiver)
        seqs = [happen(database) for _ in range(4)]
        with dispatching(database):
            until(lambda: len({each.seq for each in receiver.messages if each.status == 200}) == 4, "all arrived")
    assert [each.seq for each in receiver.messages if each.status == 200] == seqs
    assert receiver.problems == []
    arrived = [each.seq for each in receiver.messages]
    assert arrived == sorted(arrived)
    assert {len({each.id for each in receiver.messages if each.seq == seq}) for seq in seqs} == {1}


def test_a_receiver_that_hangs_delays_nobody_else(database, admin):
    release = threading.Event()

    def hang(_body, _before):
        release.wait(60)
        return 200

    with receiving(Receiver(hang)) as dead, receiving(Receiver()) as alive, dispatching(database):
        for number in range(3):
            subscribe(database, admin, dead, f"/{number}")
        subscribe(database, admin, alive)
        for number in range(20):  # more lanes than there are slots, were they not shared
            happen(database, f"default/m{number}")
        until(lambda: len(alive.messages) == 20, "the other receiver has all", patience_s=8)
        release.set()


def test_a_kind_of_failure_without_answer_is_in_the_log(database, admin):
    with receiving(Receiver()) as gone:
        subscribe(database, admin, gone)
    happen(database)
    with dispatching(database, schedule=[]):

        def errors():
            with database.transaction(read_only=True) as session:
                return [each.error for each in session.scalars(select(DeliveryAttempt))]

        until(lambda: errors() == ["The connection fails: Connection refused."], "the failure is known")


def test_a_defect_while_sending_is_a_failed_attempt(database, admin):
    def broken(_work):
        raise ZeroDivisionError

    with receiving(Receiver()) as receiver:
        subscribe(database, admin, receiver)
    happen(database)
    with dispatching(database, send=broken, schedule=[]):

        def errors():
            with database.transaction(read_only=True) as session:
                return [each.error or "" for each in session.scalars(select(DeliveryAttempt))]

        until(lambda: errors()[:1] == ["internal error; see the worker's log"], "the failure is known")


def test_two_dispatchers_send_nothing_twice(database, admin):
    with receiving(Receiver()) as receiver, dispatching(database), dispatching(database):
        subscribe(database, admin, receiver)
        seqs = [happen(database, f"default/m{number % 4}") for number in range(24)]
        until(lambda: len({each.seq for each in receiver.messages}) == 24, "all arrived")
        time.sleep(0.3)
    assert sorted(each.seq for each in receiver.messages) == seqs


def test_a_webhook_has_a_few_slots_a_slow_one_has_one_and_slow_ones_have_half_of_all():
    slots = Slots()
    assert [slots.take("a") for _ in range(EACH + 1)] == [True] * EACH + [False]
    assert slots.full() == {"a"}
    for _ in range(EACH):
        slots.give_back("a", seconds=SLOW_S)
    assert [slots.take("a"), slots.take("a")] == [True, False]
    for number in range(SLOTS):
        slots.take(f"slow{number}")
        slots.give_back(f"slow{number}", seconds=SLOW_S)
    assert sum(slots.take(f"slow{number}") for number in range(SLOTS)) == SLOW_SHARE - 1
    assert slots.free() == SLOTS - SLOW_SHARE
    assert slots.take("quick")
    slots.give_back("a", seconds=0.1)
    assert [slots.take("a"), slots.take("a")] == [True, True]


@pytest.mark.parametrize("seconds", [None, 0.1])
def test_a_slot_given_back_is_free(seconds):
    slots = Slots()
    slots.take("a")
    slots.give_back("a", seconds=seconds)
    assert slots.free() == SLOTS
    assert slots.full() == set()
