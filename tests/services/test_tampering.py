"""A chain whose rows somebody changes behind the registry's back."""

import json
import secrets
from dataclasses import replace
from random import Random

import pytest
from sqlalchemy import text

from registry.db.tables import Event
from registry.domain.audit import GENESIS, Action, Head, event_hash, event_time
from registry.services import audit, chains
from tests.support.world import T0

CHAIN = "vision"
FEW = pytest.param(50, id="few")  # on each kind of database
MANY = pytest.param(1_000, id="many", marks=pytest.mark.soak)
COLUMNS = ("actor", "action", "subject", "at", "detail", "previous_hash", "hash")


def write(session, actor, count):
    for number in range(count):
        detail = {"number": number, "text": "naïve ✓", "list": [1, "2", None]}
        audit.record(session, actor, Action.MODEL_UPDATE, f"vision/m{number % 3}", detail, chain=CHAIN, now=T0)
    session.flush()


def first_bad(session, saved):
    """As an operator asks: from the beginning, page by page, and with the end that was noted elsewhere."""
    session.expire_all()
    found = chains.check(session, Head(CHAIN, 0, GENESIS), limit=10_000)
    if found.broken_at is not None:
        return found.broken_at
    assert found.is_end
    at_saved = chains.page_of_events(session, CHAIN, after=saved.seq - 1, limit=1)
    return None if at_saved and at_saved[0].hash == saved.hash else saved.seq


class Tampering:
    """What somebody with a connection to the database could do. Each gives the first event that is wrong, if known."""

    def __init__(self, session, random, last):
        self.session, self.random, self.last = session, random, last
        self.is_postgres = session.get_bind().dialect.name == "postgresql"

    def run(self, sql, **values):
        return self.session.execute(text(sql), {"chain": CHAIN, **values})

    def edit(self):
        seq, column = self.random.randint(1, self.last), self.random.choice(COLUMNS)
        value = {
            "at": "2027-05-06 07:08:09.000001+00:00" if self.is_postgres else "2027-05-06 07:08:09.000001",
            "detail": json.dumps({"number": self.random.random()}),
            "hash": secrets.token_hex(32),
            "previous_hash": secrets.token_hex(32),
        }.get(column, f"x{self.random.random()}")
        cast = "CAST(:value AS jsonb)" if column == "detail" and self.is_postgres else ":value"
        cast = "CAST(:value AS timestamptz)" if column == "at" and self.is_postgres else cast
        self.run(f"UPDATE events SET {column} = {cast} WHERE chain = :chain AND seq = :seq", seq=seq, value=value)
        return seq

    def delete(self):
        seq = self.random.randint(1, self.last)
        self.run("DELETE FROM events WHERE chain = :chain AND seq = :seq", seq=seq)
        return seq

    def insert(self):
        """At the front, at the end, or in between after the rest was moved up; with a hash that fits what is before."""
        seq = self.random.choice((-3, 0, self.last + 1, self.last + 5, self.random.randint(1, self.last)))
        if 0 < seq <= self.last:
            for each in range(self.last, seq - 1, -1):
                self.run("UPDATE events SET seq = seq + 1 WHERE chain = :chain AND seq = :seq", seq=each)
        before = (
            self.run("SELECT hash FROM events WHERE chain = :chain AND seq = :seq", seq=seq - 1).scalar() or GENESIS
        )
        facts = {"chain": CHAIN, "actor": "eve", "action": "version:trash", "subject": "vision/m1:1"}
        digest = event_hash(before, seq, **facts, at=event_time(T0), detail={})
        self.session.add(Event(**facts, seq=seq, at=T0, detail={}, previous_hash=before, hash=digest))
        self.session.flush()
        return seq + 1 if 0 < seq <= self.last else min(max(seq, 1), self.last + 1)  # a fitting one shows by the next

    def reorder(self):
        first, second = sorted(self.random.sample(range(1, self.last + 1), 2))
        for seq, to in ((first, -1), (second, first), (-1, second)):
            self.run("UPDATE events SET seq = :to WHERE chain = :chain AND seq = :seq", seq=seq, to=to)
        return first

    def truncate(self):
        """The end cut off, and the chain's own note of its end made to fit: only who saved that sees it."""
        seq = self.random.randint(1, self.last)
        before = (
            self.run("SELECT hash FROM events WHERE chain = :chain AND seq = :seq", seq=seq - 1).scalar() or GENESIS
        )
        self.run("DELETE FROM events WHERE chain = :chain AND seq >= :seq", seq=seq)
        if self.random.random() < 0.7:
            self.run(
                "UPDATE chains SET last_seq = :seq, last_hash = :hash WHERE name = :chain", seq=seq - 1, hash=before
            )
            return None
        return seq


@pytest.mark.parametrize("count", [FEW, MANY])
def test_whatever_is_done_to_the_rows_is_found(session, admin, count):
    write(session, admin, 24)
    saved = chains.head(session, CHAIN)
    assert (saved.seq, first_bad(session, saved)) == (24, None)
    random = Random(seed := secrets.randbelow(10**9))
    done = dict.fromkeys(("edit", "delete", "insert", "reorder", "truncate"), 0)
    for number in range(count):
        name = random.choice(list(done))
        with session.begin_nested() as savepoint:
            bad = getattr(Tampering(session, random, saved.seq), name)()
            found = first_bad(session, saved)
            assert found is not None, (seed, number, name, bad)
            assert bad is None or found == bad, (seed, number, name, bad)
            savepoint.rollback()
        done[name] += 1
    session.expire_all()
    assert first_bad(session, saved) is None
    print(done)


def test_a_value_that_cannot_even_be_read_is_named(session, admin):
    write(session, admin, 5)
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("UPDATE events SET detail = '[1]' WHERE seq = 3 AND chain = 'vision'"))
    else:
        session.execute(text("UPDATE events SET detail = '{', at = 'noon' WHERE seq = 3 AND chain = 'vision'"))
    assert first_bad(session, chains.head(session, CHAIN)) == 3


def test_a_long_chain_is_verified_a_part_at_a_time(session, admin):
    write(session, admin, 2_300)
    first = chains.check(session, Head(CHAIN, 0, GENESIS), limit=1_000)
    assert (first.upto.seq, first.broken_at, first.is_end) == (1_000, None, False)
    rest = chains.check(session, first.upto, limit=5_000)
    assert (rest.upto, rest.broken_at, rest.is_end) == (chains.head(session, CHAIN), None, True)
    wrong = chains.check(session, replace(first.upto, hash=GENESIS), limit=1_000)
    assert wrong.broken_at == 1_001


def test_an_empty_chain_verifies(session, admin):
    found = chains.check(session, Head("nothing", 0, GENESIS), limit=10)
    assert (found.upto, found.broken_at, found.is_end) == (Head("nothing", 0, GENESIS), None, True)
