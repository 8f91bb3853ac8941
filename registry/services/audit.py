"""Events: every act leaves one, in the transaction that does it, chained by hash to the one before."""

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry.db.tables import Chain, Event
from registry.domain.audit import GENESIS, Action, event_hash, event_time
from registry.services import deliveries
from registry.services.actors import Actor


def record(
    session: Session,
    actor: Actor,
    action: Action,
    subject: str,
    detail: dict[str, Any] | None = None,
    *,
    chain: str,
    now: datetime,
) -> Event:
    """Append an event to a namespace's chain (its canonical name) or to `_system`, and queue it for its webhooks.

    Locks the chain until the transaction ends, so call it last.
    """
    head = _locked_head(session, chain)
    facts = detail or {}
    digest = event_hash(
        head.last_hash,
        head.last_seq + 1,
        chain=chain,
        actor=actor.name,
        action=action,
        subject=subject,
        at=event_time(now),
        detail=facts,
    )
    event = Event(
        chain=chain,
        seq=head.last_seq + 1,
        actor=actor.name,
        action=str(action),
        subject=subject,
        at=now,
        detail=facts,
        previous_hash=head.last_hash,
        hash=digest,
    )
    head.last_seq, head.last_hash = event.seq, event.hash
    session.add(event)
    deliveries.announce(session, event)
    return event


def _locked_head(session: Session, chain: str) -> Chain:
    query = select(Chain).where(Chain.name == chain).with_for_update()
    head = session.scalar(query)
    if head is None:
        dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
        fresh = dialect.insert(Chain).values(name=chain, last_seq=0, last_hash=GENESIS).on_conflict_do_nothing()
        session.execute(fresh)
        head = session.scalars(query).one()
    return head
