"""The dispatcher: sends what webhooks are owed, in a thread of the worker, one short thread a request.

It keeps no state that matters: what is owed, what is under way and when to try again are rows (`services.dispatching`).
A receiver that hangs delays nobody else: each webhook has a few requests under way at most, one that is slow has one,
and all slow ones together have half of the slots.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import structlog

from registry import egress
from registry.db.session import Database, now
from registry.domain.errors import RegistryError
from registry.domain.targets import Allowed
from registry.domain.webhooks import RETRIES
from registry.services import dispatching
from registry.services.dispatching import LEASE, Outcome, Work

log = structlog.get_logger()

SLOTS, EACH, SLOW_SHARE = 32, 4, 16
SLOW_S = 3.0
_LOOK_S = 0.5
_AFTER_TROUBLE_S = 2.0
_LAST_WAIT_S = 5.0

Send = Callable[[Work], int]
"""Sends a message and gives the status of the answer. Raises RegistryError."""


class Slots:
    """Who may have how many requests under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._slow: set[str] = set()

    def free(self) -> int:
        """How many more requests there may be."""
        with self._lock:
            return SLOTS - self._busy.total()

    def full(self) -> set[str]:
        """Webhooks that may have no further request now."""
        with self._lock:
            return {webhook for webhook in {*self._busy, *self._slow} if not self._has_room(webhook)}

    def take(self, webhook: str) -> bool:
        """Have one more request of a webhook under way, if it may."""
        with self._lock:
            if not self._has_room(webhook):
                return False
            self._busy[webhook] += 1
            return True

    def give_back(self, webhook: str, *, seconds: float | None = None) -> None:
        """It is over; if a request was made, how long it took says how slow the webhook is."""
        with self._lock:
            self._busy -= Counter([webhook])
            if seconds is not None:
                (self._slow.add if seconds >= SLOW_S else self._slow.discard)(webhook)

    def _has_room(self, webhook: str) -> bool:
        if self._busy.total() >= SLOTS:
            return False
        if webhook not in self._slow:
            return self._busy[webhook] < EACH
        return not self._busy[webhook] and sum(self._busy[each] for each in self._slow) < SLOW_SHARE


class Dispatcher:
    """Delivers until it is stopped. Any number may work on one database."""

    def __init__(
        self,
        database: Database,
        allowed: Allowed,
        *,
        schedule: Sequence[timedelta] = RETRIES,
        lease: timedelta = LEASE,
        send: Send | None = None,
    ) -> None:
        """Nothing is sent yet."""
        self._database, self._allowed, self._schedule, self._lease = database, allowed, schedule, lease
        self._send = send or self._post
        self._slots = Slots()
        self._wake, self._stop = threading.Event(), threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Deliver meanwhile. In the end, requests under way are given a moment; what they leave is sent again."""
        thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._wake.set()
            end = time.monotonic() + _LAST_WAIT_S
            thread.join(_LAST_WAIT_S)
            while self._slots.free() < SLOTS and time.monotonic() < end:
                time.sleep(0.02)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                if not self._dispatch():
                    self._wake.wait(_LOOK_S)
            except RegistryError as error:
                log.warning("nothing can be delivered", code=error.code)
                self._stop.wait(_AFTER_TROUBLE_S)
            except Exception:  # a defect here must not stop the deliveries of everybody for good
                log.exception("the dispatcher failed")
                self._stop.wait(_AFTER_TROUBLE_S)

    def _dispatch(self) -> bool:
        """Start what is due and has room; whether there was anything."""
        free, full, claimed = self._slots.free(), self._slots.full(), time.monotonic()
        if free <= 0:
            return False
        with self._database.transaction(read_only=True) as session:
            if not dispatching.is_due(session, full=full, now=now(session)):
                return False
        taken: list[str] = []

        def admit(webhook: str) -> bool:
            if self._slots.take(webhook):
                taken.append(webhook)
                return True
            return False

        try:
            with self._database.transaction() as session:
                found = dispatching.claim(
                    session, limit=free, full=full, admit=admit, now=now(session), lease=self._lease
                )
        except BaseException:
            for webhook in taken:
                self._slots.give_back(webhook)
            raise
        send_by = claimed + self._lease.total_seconds() / 2
        for work in found:
            threading.Thread(target=self._deliver, args=(work, send_by), name="deliver", daemon=True).start()
        return bool(found)

    def _deliver(self, work: Work, send_by: float) -> None:
        seconds = None
        try:
            if time.monotonic() > send_by:
                return  # its lease may end while it is sent; whoever looks next takes it up
            outcome = self._outcome(work)
            seconds = outcome.latency_ms / 1000
            with self._database.transaction() as session:
                chance = random.random()  # noqa: S311 - jitter
                dispatching.settle(session, work, outcome, chance=chance, now=now(session), schedule=self._schedule)
        except RegistryError as error:  # when the lease ends it is sent again
            log.warning("an outcome is lost", code=error.code, delivery=work.delivery_id)
        except Exception:
            log.exception("an outcome is lost", delivery=work.delivery_id)
        finally:
            self._slots.give_back(work.webhook_id, seconds=seconds)
            self._wake.set()

    def _outcome(self, work: Work) -> Outcome:
        began, status, error = time.monotonic(), None, None
        try:
            status = self._send(work)
        except RegistryError as refusal:
            error = str(refusal)[:255]
        except Exception:
            log.exception("a delivery failed", delivery=work.delivery_id)
            error = "internal error; see the worker's log"
        latency_ms = max(1, round((time.monotonic() - began) * 1000))
        outcome = Outcome(status, latency_ms, error)
        if not outcome.is_delivered:
            log.info(
                "not delivered", webhook=work.webhook_id, delivery=work.delivery_id, attempt=work.attempt, status=status
            )
        return outcome

    def _post(self, work: Work) -> int:
        return egress.post(work.url, work.body, work.headers, allowed=self._allowed)
