"""Dispatching: what to send now, and what became of it.

A dispatcher claims a lane by drawing a lease; its time is the moment at which others may take the lane for abandoned.
So the work of one that was killed is taken up by whoever looks next, and one that only slept too long cannot decide
what happens to the lane any more, though what it has delivered counts.
"""

import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from registry.db.tables import Delivery, DeliveryAttempt, Event, Lane, Model, Namespace, Webhook
from registry.domain import webhooks as rules
from registry.domain.audit import Action
from registry.services import audit, deliveries
from registry.services.actors import SYSTEM

LEASE = timedelta(seconds=20)
NO_OUTCOME = "under way, or lost with the worker that made it"
_GONE = 410


@dataclass(frozen=True, slots=True)
class Work:
    """One message to send. What it says and to whom is not for a log."""

    delivery_id: str
    webhook_id: str
    lane: str
    lease: str
    attempt: int
    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt: a status, or an error where there was none."""

    status: int | None
    latency_ms: int
    error: str | None = None

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.status is not None and 200 <= self.status < 300


def is_due(session: Session, *, full: Collection[str], now: datetime) -> bool:
    """Whether a lane waits of a webhook that is not in `full`. Reads the head of one index."""
    return session.scalar(_due(full, now).limit(1)) is not None


def claim(
    session: Session,
    *,
    limit: int,
    full: Collection[str],
    admit: Callable[[str], bool],
    now: datetime,
    lease: timedelta = LEASE,
) -> list[Work]:
    """Take the first message of up to `limit` lanes that are due, of webhooks that `admit` lets in."""
    query = _due(full, now).order_by(Lane.due_at).limit(limit).with_for_update(of=Lane, skip_locked=True)
    claimed: list[Work] = []
    refused: set[str] = set()
    for lane in session.scalars(query).all():
        if lane.webhook_id in refused:
            continue
        head = session.scalar(_head(lane).limit(1))
        if head is None or head.due_at > now:
            lane.due_at, lane.lease = head.due_at if head else None, None
        elif admit(lane.webhook_id):
            claimed.append(_take(session, lane, head, until=now + lease, now=now))
        else:
            refused.add(lane.webhook_id)
    return claimed


def settle(
    session: Session,
    work: Work,
    outcome: Outcome,
    *,
    chance: float,
    now: datetime,
    schedule: Sequence[timedelta] = rules.RETRIES,
) -> None:
    """Note what came of an attempt: delivered, to be tried again, or dead. A receiver that is gone is disabled."""
    if outcome.status == _GONE:
        _disable(session, work.webhook_id, now=now)
    lane = session.scalars(
        select(Lane).where(Lane.webhook_id == work.webhook_id, Lane.name == work.lane).with_for_update()
    ).one()
    attempt = session.get_one(DeliveryAttempt, (work.delivery_id, work.attempt))
    attempt.status, attempt.latency_ms, attempt.error = outcome.status, outcome.latency_ms, outcome.error
    delivery = session.get_one(Delivery, work.delivery_id)
    is_ours = lane.lease == work.lease
    if outcome.is_delivered and delivery.state == "pending":
        delivery.state, delivery.ended_at = "delivered", now
    elif is_ours and delivery.state == "pending":
        delivery.failure_count += 1
        wait = rules.delay(delivery.failure_count, chance, schedule=schedule)
        if wait is None:
            delivery.state, delivery.ended_at = "dead", now
        else:
            delivery.due_at = now + wait
    if is_ours:
        head = session.scalar(_head(lane).limit(1))
        lane.lease, lane.due_at = None, max(head.due_at, now) if head else None


def _due(full: Collection[str], now: datetime) -> Select[Lane]:
    query = select(Lane).where(Lane.due_at <= now)
    return query.where(Lane.webhook_id.not_in(full)) if full else query


def _head(lane: Lane) -> Select[Delivery]:
    return (
        select(Delivery)
        .where(Delivery.webhook_id == lane.webhook_id, Delivery.lane == lane.name, Delivery.state == "pending")
        .order_by(Delivery.seq)
    )


def _take(session: Session, lane: Lane, delivery: Delivery, *, until: datetime, now: datetime) -> Work:
    webhook = session.get_one(Webhook, lane.webhook_id)
    event = session.get_one(Event, (delivery.chain, delivery.seq))
    lane.due_at, lane.lease = until, uuid.uuid4().hex
    delivery.attempt_count += 1
    number = delivery.attempt_count
    session.add(DeliveryAttempt(delivery_id=delivery.id, attempt=number, at=now, latency_ms=0, error=NO_OUTCOME))
    body = rules.message(
        chain=event.chain,
        seq=event.seq,
        action=event.action,
        subject=event.subject,
        actor=event.actor,
        at=event.at,
        detail=event.detail,
    )
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "weight-registry-webhooks",
        **rules.headers(delivery.id, body, secrets=rules.valid_secrets(webhook.secrets, now=now), at=now),
    }
    return Work(delivery.id, lane.webhook_id, lane.name, lane.lease, number, webhook.url, headers, body)


def _disable(session: Session, webhook_id: str, *, now: datetime) -> None:
    """The event comes first, so that the chain is held before lanes are."""
    webhook = session.scalars(select(Webhook).where(Webhook.id == webhook_id).with_for_update(key_share=True)).one()
    if not webhook.is_enabled or webhook.deleted_at is not None:
        return
    webhook.is_enabled = False
    subject = chain = session.get_one(Namespace, webhook.namespace_id).name
    if webhook.model_id is not None:
        subject = f"{chain}/{session.get_one(Model, webhook.model_id).name}"
    detail = {"webhook": webhook_id, "enabled": False, "why": "the receiver answered 410 Gone"}
    audit.record(session, SYSTEM, Action.WEBHOOK_UPDATE, subject, detail, chain=chain, now=now)
    deliveries.give_up(session, webhook_id, now=now)
