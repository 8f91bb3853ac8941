"""Upkeep: rows that only matter for a while."""

from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from registry.db.tables import IdempotencyKey, WebSession
from registry.services import consumers, deliveries

_ANSWERS_KEPT = timedelta(days=1)


def forget_old_rows(session: Session, *, now: datetime) -> None:
    """Drop answers kept for a day, browser sessions that ended, silent consumers, and the log of old deliveries."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now - _ANSWERS_KEPT))
    session.execute(delete(WebSession).where(WebSession.expires_at <= now))
    consumers.forget(session, now=now)
    deliveries.forget_ended(session, now=now)
