"""The dispatcher is killed again and again while a receiver fails now and then: all arrives, in order, nothing else."""

import os
import random
import threading
import time
from collections import defaultdict
from contextlib import suppress

import pytest
from sqlalchemy import func, select

from registry.db.session import DatabaseBusyError, now
from registry.db.tables import Delivery
from registry.domain.audit import Action
from registry.domain.targets import Allowed
from registry.services import audit, webhooks
from registry.services.actors import SYSTEM
from tests.faults.scene import SOAK, draw
from tests.support import dispatcher
from tests.support.receiver import Receiver, receiving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MODELS = 25


class Refused(Exception):  # noqa: N818 - a transaction that is not to be
    pass


def write(database, events, rolled_back, done):
    """Events of several models, every tenth of which is rolled back. Gives the committed seqs by model."""
    committed = defaultdict(list)
    for number in range(events):
        subject = f"default/m{number % MODELS}"
        with suppress(Refused, DatabaseBusyError), database.transaction() as session:
            event = audit.record(
                session, SYSTEM, Action.MODEL_UPDATE, subject, {"n": number}, chain="default", now=now(session)
            )
            if number % 10 == 9 and not rolled_back.get(number):
                rolled_back[number] = True
                raise Refused
            seq = event.seq
        if number not in rolled_back:
            committed[subject].append(seq)
        time.sleep(0.001)
    done.append(committed)


@pytest.mark.parametrize(
    ("events", "kills", "lease_s"), [(150, 2, 1.0), pytest.param(11_200, 50, 2.0, marks=SOAK)], ids=["few", "many"]
)
def test_all_arrives_in_order_whatever_is_killed(database, admin, events, kills, lease_s):
    seed = draw()
    print(f"CHAOS_SEED={seed}")
    chance = random.Random(seed)
    receiver = Receiver(lambda _body, _before: 500 if chance.random() < 0.2 else 200)
    with receiving(receiver):
        with database.transaction() as session:
            _, receiver.secret = webhooks.create(
                session,
                admin,
                "default",
                receiver.url(),
                allowed=Allowed.of(["127.0.0.1"]),
                actions=["model:update"],
                now=now(session),
            )
        done: list = []
        writer = threading.Thread(target=write, args=(database, events, {}, done))
        writer.start()
        process = dispatcher.start(database.url, scale=0.01, lease_s=lease_s)
        try:
            for _ in range(kills):
                before = len(receiver.messages)
                end = time.monotonic() + 20
                while len(receiver.messages) <= before and time.monotonic() < end:
                    time.sleep(0.005)
                time.sleep(chance.uniform(0, 0.4))
                process.kill()
                process.wait()
                process = dispatcher.start(database.url, scale=0.01, lease_s=lease_s)
            writer.join()
            end = time.monotonic() + (120 if events < 1000 else 1800)
            while pending(database) and time.monotonic() < end:
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
            writer.join()
    check(receiver, done[0], database)
    sent = len(receiver.messages)
    twice = sent - len({each.id for each in receiver.messages})
    print(f"{sent} requests, {twice} repetitions, {kills} kills, pid {os.getpid()}")


def pending(database):
    with database.transaction(read_only=True) as session:
        return session.scalars(select(func.count()).where(Delivery.state == "pending")).one()


def check(receiver, committed, database):
    assert pending(database) == 0
    assert receiver.problems == []
    delivered = [each for each in receiver.messages if each.status == 200]
    wanted = {seq for seqs in committed.values() for seq in seqs}
    assert {each.seq for each in delivered} == wanted  # every one, and none that was not committed
    assert {each.seq for each in receiver.messages} == wanted
    ids = defaultdict(set)
    for each in receiver.messages:
        ids[each.seq].add(each.id)
    assert {len(found) for found in ids.values()} == {1}
    assert len({next(iter(found)) for found in ids.values()}) == len(wanted)
    for subject, seqs in committed.items():
        first = list(dict.fromkeys(each.seq for each in receiver.messages if each.subject == subject))
        assert first == seqs  # nothing overtakes what was not yet delivered
        assert list(dict.fromkeys(each.seq for each in delivered if each.subject == subject)) == seqs
