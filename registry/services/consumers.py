"""Consumers: which process runs what, as each last said. A lease ends unless it is renewed; nobody has to sign off.

What they say changes nothing in the registry, so it is no event.
"""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from sqlalchemy import Select, delete, func, select, tuple_
from sqlalchemy.orm import Session, contains_eager

from registry.db.tables import Consumer, Model, User, Version
from registry.domain.access import Permission
from registry.domain.errors import InvalidError, NotFoundError
from registry.domain.names import fold, shown
from registry.domain.references import parse_reference
from registry.services import models
from registry.services.actors import Actor
from registry.services.versions import VersionNotFoundError

LEASE: Final = timedelta(seconds=120)
_ID = re.compile(r"[0-9a-f]{32}")


class ConsumerNotFoundError(NotFoundError):
    """There is no such consumer: its lease ended, or it is another user's."""

    code = "CONSUMER_NOT_FOUND"
    remedy = "Register it again; a consumer that says nothing for longer than its lease is forgotten."


class FollowsAnotherModelError(InvalidError):
    """A consumer of one model says that it follows a reference of another."""

    code = "FOLLOWS_ANOTHER_MODEL"
    remedy = "Register it with the model that its reference names."


@dataclass(frozen=True, slots=True)
class Report:
    """What a consumer says of itself."""

    number: int | None
    seq: int | None
    state: Literal["pulling", "running", "failed"]
    detail: str


def register(
    session: Session, actor: Actor, model: Model, name: str, *, follows: str, report: Report, now: datetime
) -> Consumer:
    """Begin a lease. Raises FollowsAnotherModelError, VersionNotFoundError, or as `parse_reference`."""
    owner = models.full_name(model)
    actor.check(Permission.CONSUMER_REPORT, owner)
    reference = parse_reference(follows)
    if (fold(reference.model.namespace), fold(reference.model.name)) != (fold(owner.namespace), fold(owner.name)):
        raise FollowsAnotherModelError(f"{shown(follows)} is no reference of {owner}.", follows=follows)
    consumer = Consumer(
        id=uuid.uuid4().hex,
        model_id=model.id,
        user_id=actor.user_id,
        name=name,
        follows=f"{owner}{reference.selector}",
        started_at=now,
    )
    _take(session, consumer, report, owner=str(owner), now=now)
    session.add(consumer)
    session.flush()
    return consumer


def renew(session: Session, actor: Actor, consumer_id: str, *, report: Report, now: datetime) -> tuple[Consumer, Model]:
    """Take what it says and begin its lease anew. Raises ConsumerNotFoundError or VersionNotFoundError."""
    consumer, model = _own(session, actor, consumer_id, now=now)
    _take(session, consumer, report, owner=str(models.full_name(model)), now=now)
    return consumer, model


def remove(session: Session, actor: Actor, consumer_id: str, *, now: datetime) -> None:
    """End the lease. Raises ConsumerNotFoundError."""
    session.delete(_own(session, actor, consumer_id, now=now)[0])


def page_of_consumers(
    session: Session, model: Model, *, after: tuple[str, str] | None, limit: int, now: datetime
) -> list[Consumer]:
    """Those whose lease has not ended, by name, `limit + 1` at most."""
    query = select(Consumer).where(Consumer.model_id == model.id, Consumer.expires_at > now)
    if after is not None:
        query = query.where(tuple_(Consumer.name, Consumer.id) > after)
    return list(session.scalars(query.order_by(Consumer.name, Consumer.id).limit(limit + 1)))


def names_of_users(session: Session, consumers: Sequence[Consumer]) -> dict[int, str]:
    """The names of those who run them, by id."""
    ids = {consumer.user_id for consumer in consumers}
    rows = session.execute(select(User.id, User.name).where(User.id.in_(ids))).all() if ids else ()
    return {row.id: row.name for row in rows}


def running(session: Session, model: Model, stages: Sequence[str], *, now: datetime) -> dict[str, dict[int, int]]:
    """How many of those that follow a stage run which version, the highest first, by stage."""
    found: dict[str, dict[int, int]] = {stage: {} for stage in stages}
    owner = models.full_name(model)
    by_reference = {f"{owner}@{stage}": stage for stage in stages}
    query = (
        _following(model, list(by_reference), now=now)
        .add_columns(Consumer.follows, Consumer.number)
        .where(Consumer.number.is_not(None))
        .group_by(Consumer.follows, Consumer.number)
        .order_by(Consumer.number.desc())
    )
    for count, follows, number in session.execute(query):
        found[by_reference[follows]][number] = count
    return found


def reach(session: Session, model: Model, stage: str, *, now: datetime) -> int:
    """How many follow the stage: what a promotion would change."""
    return session.scalar(_following(model, [f"{models.full_name(model)}@{stage}"], now=now)) or 0


def forget(session: Session, *, now: datetime) -> None:
    """Drop those whose lease has ended."""
    session.execute(delete(Consumer).where(Consumer.expires_at <= now))


def _following(model: Model, references: Sequence[str], *, now: datetime) -> Select[int]:
    return select(func.count()).where(
        Consumer.model_id == model.id, Consumer.follows.in_(references), Consumer.expires_at > now
    )


def _own(session: Session, actor: Actor, consumer_id: str, *, now: datetime) -> tuple[Consumer, Model]:
    found = None
    if _ID.fullmatch(consumer_id):
        query = (
            select(Consumer, Model)
            .join(Model, Model.id == Consumer.model_id)
            .join(Model.namespace)
            .options(contains_eager(Model.namespace))
            .where(Consumer.id == consumer_id, Consumer.user_id == actor.user_id, Consumer.expires_at > now)
            .with_for_update(of=Consumer)
        )
        found = session.execute(query).one_or_none()
    if found is None:
        raise ConsumerNotFoundError(f"There is no consumer {shown(consumer_id)}.", consumer=consumer_id)
    actor.check(Permission.CONSUMER_REPORT, models.full_name(found[1]))
    return found[0], found[1]


def _take(session: Session, consumer: Consumer, report: Report, *, owner: str, now: datetime) -> None:
    if report.number is not None:
        query = select(Version.id).where(Version.model_id == consumer.model_id, Version.number == report.number)
        if session.scalar(query) is None:
            raise VersionNotFoundError(f"{owner} has no version {report.number}.", model=owner, number=report.number)
    consumer.number, consumer.seq = report.number, report.seq
    consumer.state, consumer.detail = report.state, report.detail
    consumer.seen_at, consumer.expires_at = now, now + LEASE
