"""Deliveries: an event on its way to those who asked for it, queued in the event's own transaction.

A lane keeps the order of a model's events at one webhook; its row is what the dispatcher waits for. Whoever changes
several lanes at once holds the chain, that is, has recorded its event before; so nobody waits in a circle.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry.db.tables import Delivery, DeliveryAttempt, Event, Lane, Model, Namespace, Webhook
from registry.domain.audit import Action
from registry.domain.names import SYSTEM_CHAIN, fold
from registry.domain.webhooks import TEST_LANE, lane_of, message_id, replay_lane, wants

KEPT = timedelta(days=30)
"""How long the log of what was delivered, or given up, is kept."""


def announce(session: Session, event: Event) -> None:
    """Queue the event for each webhook that asked for it. Where there is none this costs one indexed query."""
    if event.chain == SYSTEM_CHAIN:
        return
    query = (
        select(Webhook.id, Webhook.actions, Model.name)
        .join(Namespace, Namespace.id == Webhook.namespace_id)
        .outerjoin(Model, Model.id == Webhook.model_id)
        .where(Namespace.folded == fold(event.chain), Webhook.is_enabled, Webhook.deleted_at.is_(None))
        .order_by(Webhook.id)
    )
    for webhook_id, actions, model in session.execute(query).all():
        if event.action == Action.WEBHOOK_TEST:
            if event.detail["webhook"] == webhook_id:
                _queue(session, webhook_id, event, TEST_LANE)
            continue
        lane = lane_of(event.subject)
        if wants(actions, event.action) and model in (None, lane.partition("/")[2]):
            _queue(session, webhook_id, event, lane)


def requeue(session: Session, found: Sequence[Delivery], *, now: datetime) -> int:
    """Have ended deliveries sent again, in order beside their lanes, and pending ones at once. Gives their number.

    The lanes are locked before their deliveries, as the dispatcher does.
    """
    lanes = {each.id: each.lane if each.state == "pending" else replay_lane(each.lane) for each in found}
    for webhook_id, lane in sorted({(each.webhook_id, lanes[each.id]) for each in found}):
        wake(session, webhook_id, lane, now=now)
    count = 0
    for each in found:
        if each.state == "pending":
            session.refresh(each)
            if each.state != "pending":
                continue  # it was tried just now
        else:
            each.state, each.ended_at, each.failure_count = "pending", None, 0
            each.lane = lanes[each.id]
        each.due_at = now
        count += 1
    return count


def give_up(session: Session, webhook_id: str, *, now: datetime) -> None:
    """Let what is pending for a webhook die, and stop its lanes."""
    session.execute(update(Lane).where(Lane.webhook_id == webhook_id).values(due_at=None, lease=None))
    session.execute(
        update(Delivery)
        .where(Delivery.webhook_id == webhook_id, Delivery.state == "pending")
        .values(state="dead", ended_at=now)
    )


def wake(session: Session, webhook_id: str, lane: str, *, now: datetime) -> None:
    """See that the dispatcher looks at a lane, unless a message of it is under way. Locks the lane in either case."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    fresh = dialect.insert(Lane).values(webhook_id=webhook_id, name=lane, due_at=now)
    session.execute(
        fresh.on_conflict_do_update(
            index_elements=[Lane.webhook_id, Lane.name],
            set_={"due_at": now},
            where=Lane.lease.is_(None) & or_(Lane.due_at.is_(None), Lane.due_at > now),
        )
    )


def forget_ended(session: Session, *, now: datetime) -> None:
    """Drop the log of what ended long ago."""
    ended = select(Delivery.id).where(Delivery.ended_at < now - KEPT)
    session.execute(delete(DeliveryAttempt).where(DeliveryAttempt.delivery_id.in_(ended)))
    session.execute(delete(Delivery).where(Delivery.ended_at < now - KEPT))


def _queue(session: Session, webhook_id: str, event: Event, lane: str) -> None:
    session.add(
        Delivery(
            id=message_id(webhook_id, event.chain, event.seq),
            webhook_id=webhook_id,
            chain=event.chain,
            seq=event.seq,
            lane=lane,
            due_at=event.at,
            created_at=event.at,
        )
    )
    wake(session, webhook_id, lane, now=event.at)
