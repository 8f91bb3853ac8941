"""Chains read: events in their order, where a chain ends, whether it is as it was written, and waiting for more of it.

A chain has no gaps and its events become visible in the order of their numbers, because whoever appends one holds the
chain until the end of the transaction. So who has seen number 7 need only ask for what is above 7.
"""

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import Chain, Event
from registry.domain import audit
from registry.domain.audit import GENESIS, Head, event_time
from registry.domain.errors import InvalidError
from registry.domain.names import shown

_PATTERN = re.compile(r"[a-z]{1,32}:(?:[a-z]{1,32}|\*)")
_LOOK_S: Final = 0.5
_BATCH: Final = 1_000


class InvalidActionError(InvalidError):
    """A filter over events is no action and no group of actions."""

    code = "INVALID_ACTION"
    remedy = "Write an action such as promotion:apply, or a group such as promotion:*."


@dataclass(frozen=True, slots=True)
class Checked:
    """How far a chain is known to be good; `broken_at` is the number of the first event that is not as it was written.

    `is_end` says that there was no more to look at.
    """

    upto: Head
    broken_at: int | None
    is_end: bool


def check_pattern(text: str) -> str:
    """Check that it can filter events: `promotion:apply` or `promotion:*`. Raises InvalidActionError."""
    if not _PATTERN.fullmatch(text):
        raise InvalidActionError(f"{shown(text)} is no action of an event.", action=text)
    return text


def page_of_events(session: Session, chain: str, *, after: int, limit: int, action: str | None = None) -> list[Event]:
    """Up to `limit` events with a seq above `after`, oldest first; only those that fit `action`, if it is given."""
    query = _in_order(chain).where(Event.seq > after).limit(limit)
    if action is not None:
        group, star, _ = action.partition("*")
        query = query.where(Event.action.startswith(group, autoescape=True) if star else Event.action == action)
    return list(session.scalars(query))


def head(session: Session, chain: str) -> Head:
    """Number and hash of the last event of a chain; number 0 before the first."""
    row = session.execute(select(Chain.last_seq, Chain.last_hash).where(Chain.name == chain)).one_or_none()
    return Head(chain, row.last_seq, row.last_hash) if row is not None else Head(chain, 0, GENESIS)


def check(session: Session, start: Head, *, limit: int) -> Checked:
    """Verify about `limit` events that follow `start`, and where the chain ends that this is where it should end.

    To verify a whole chain start at number 0, and go on where this stopped.
    """
    reached, last = start, head(session, start.chain)
    for _ in range(-(-limit // _BATCH)):
        facts = list(_facts(session, reached))
        broken = audit.verify(facts, previous=reached.hash, first=reached.seq + 1)
        good = facts if broken is None else facts[: broken - reached.seq - 1]
        if good:
            reached = Head(start.chain, good[-1].seq, good[-1].hash)
        if broken is not None:
            return Checked(reached, broken, is_end=False)
        if len(facts) < _BATCH:
            return Checked(reached, _misplaced_end(reached, last, head(session, start.chain)), is_end=True)
    return Checked(reached, None, is_end=False)


def _misplaced_end(reached: Head, before: Head, after: Head) -> int | None:
    """What is wrong with a chain that verifies up to `reached`, if it should end between `before` and `after`."""
    if reached.seq < before.seq:
        return reached.seq + 1  # cut off
    if reached.seq > after.seq:
        return after.seq + 1  # put behind the end
    wrong = any(reached.seq == end.seq and reached.hash != end.hash for end in (before, after))
    return reached.seq or 1 if wrong else None


def _facts(session: Session, reached: Head) -> Iterator[audit.Event]:
    query = _in_order(reached.chain)
    if reached.seq:  # nothing belongs before number 1, so from the beginning that is looked at too
        query = query.where(Event.seq > reached.seq)
    try:
        rows = list(session.scalars(query.limit(_BATCH)))
    except (TypeError, ValueError):  # a value that no event ever had, and that cannot even be read
        yield from _facts_singly(session, query)
        return
    for row in rows:
        yield _fact(row)
    session.expunge_all()


def _facts_singly(session: Session, query: Select[Event]) -> Iterator[audit.Event]:
    for index in range(_BATCH):
        try:
            row = session.scalar(query.offset(index).limit(1))
        except (TypeError, ValueError):
            yield audit.Event("", 0, "", "", "", "", {}, "", "")
            return
        if row is None:
            return
        yield _fact(row)


def _in_order(chain: str) -> Select[Event]:
    return select(Event).where(Event.chain == chain).order_by(Event.seq)


def _fact(row: Event) -> audit.Event:
    return audit.Event(
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


class Heads:
    """How far each chain is, for any number who wait for it: read at most every half second, and only while one asks.

    Whoever waits holds no connection between two looks. Safe to share between threads.
    """

    def __init__(self, database: Database) -> None:
        """Nothing is read yet."""
        self._database = database
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, int]] = {}
        self._over = threading.Event()

    @property
    def is_over(self) -> bool:
        """Whether nobody is to wait any more."""
        return self._over.is_set()

    def end(self) -> None:
        """Let everybody go who waits, and whoever comes later: the process is about to end."""
        self._over.set()

    def last(self, chain: str) -> int:
        """The number of the chain's newest event, as of half a second ago or later. Raises what the database raises."""
        with self._lock:
            read_at, seq = self._known.get(chain, (float("-inf"), 0))
            if time.monotonic() - read_at >= _LOOK_S:
                with self._database.autocommit() as connection:
                    seq = connection.scalar(select(Chain.last_seq).where(Chain.name == chain)) or 0
                self._known[chain] = (time.monotonic(), seq)
            return seq

    def wait(self, chain: str, *, after: int, until: float) -> bool:
        """Whether the chain has an event numbered above `after`; waits for one until `time.monotonic()` is `until`."""
        while self.last(chain) <= after:
            left = until - time.monotonic()
            if left <= 0 or self._over.wait(min(left, _LOOK_S)):
                return False
        return True
