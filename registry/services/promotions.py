"""Promotions: the only way a stage moves. Applied ones, numbered from 1 without gaps, are the stage's history.

Whoever moves a stage holds the model's row from the comparison with what was expected to the end of the transaction,
so of any number who expect the same holder one wins, and the others learn who it was.

`proposing` has the requests, `deciding` what becomes of them, `judging` what the stage's policy says.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.orm import Session, contains_eager

from registry.db.queue import enqueue
from registry.db.tables import Model, Pointer, Promotion
from registry.domain.access import Permission
from registry.domain.audit import Action, event_time
from registry.domain.errors import ConflictError, NotFoundError
from registry.domain.names import shown
from registry.services import audit, models, pointers, policies
from registry.services.actors import Actor
from registry.services.whole_objects import RECONCILE

_ID = re.compile(r"[0-9a-f]{32}")


class PromotionNotFoundError(NotFoundError):
    """There is no such promotion, or none that the actor may see."""

    code = "PROMOTION_NOT_FOUND"
    remedy = "See the stage's promotions with 'registry history NAME STAGE'."


class StageMovedError(ConflictError):
    """The stage's holder is not the one that was expected; someone else moved it."""

    code = "STAGE_MOVED"
    remedy = "Look at who holds the stage now, and repeat the request expecting that."


@dataclass(frozen=True, slots=True)
class Expected:
    """What the one who asks saw of the stage: the holder's number (0 for none) and its seq; None is no claim."""

    holder: int | None = None
    seq: int | None = None


ANYTHING: Final = Expected()


def find(session: Session, actor: Actor, promotion_id: str) -> tuple[Promotion, Model]:
    """A promotion and its model. Raises PromotionNotFoundError, also if the actor may not read the model."""
    found = None
    if _ID.fullmatch(promotion_id):
        query = (
            select(Promotion, Model)
            .join(Model, Model.id == Promotion.model_id)
            .join(Model.namespace)
            .options(contains_eager(Model.namespace))
            .where(Promotion.id == promotion_id, Model.deleted_at.is_(None))
        )
        found = session.execute(query).one_or_none()
    if found is None or not actor.may(Permission.PROMOTION_READ, models.full_name(found[1])):
        raise PromotionNotFoundError(f"There is no promotion {shown(promotion_id)}.", promotion=promotion_id)
    return found[0], found[1]


@dataclass(frozen=True, slots=True)
class Within:
    """A part of a history: one version's terms, and what was decided after `since` and not after `until`."""

    number: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def of(self, query: Select[Any]) -> Select[Any]:
        """The same query, of this part."""
        if self.number is not None:
            query = query.where(Promotion.number == self.number)
        if self.since is not None:
            query = query.where(Promotion.decided_at > self.since)
        return query if self.until is None else query.where(Promotion.decided_at <= self.until)


WHOLE: Final = Within()


def history(
    session: Session, model: Model, stage: str, *, before: int | None, limit: int, within: Within = WHOLE
) -> list[Promotion]:
    """Applied promotions of a stage, newest first, `limit + 1` at most."""
    query = within.of(applied(model, stage))
    if before is not None:
        query = query.where(Promotion.seq < before)
    return list(session.scalars(query.order_by(Promotion.seq.desc()).limit(limit + 1)))


def ends(session: Session, model: Model, stage: str, entries: Sequence[Promotion]) -> dict[int, datetime]:
    """When each of some entries of the history was followed by the next, by seq."""
    after = [entry.seq + 1 for entry in entries if entry.seq is not None]
    query = applied(model, stage).where(Promotion.seq.in_(after))
    return {entry.seq - 1: entry.decided_at for entry in session.scalars(query) if entry.seq and entry.decided_at}


def page_of_promotions(
    session: Session,
    model: Model,
    stage: str,
    *,
    state: str | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[Promotion]:
    """Whatever was asked of a stage, the last asked for first, `limit + 1` at most."""
    query = select(Promotion).where(Promotion.model_id == model.id, Promotion.stage == stage)
    if state is not None:
        query = query.where(Promotion.state == state)
    if before is not None:
        query = query.where(tuple_(Promotion.requested_at, Promotion.id) < before)
    order = (Promotion.requested_at.desc(), Promotion.id.desc())
    return list(session.scalars(query.order_by(*order).limit(limit + 1)))


def has_held(session: Session, model: Model, stage: str, number: int) -> bool:
    """Whether a version holds the stage or ever did."""
    return session.scalar(applied(model, stage).where(Promotion.number == number).limit(1)) is not None


def last_of(session: Session, model: Model, stage: str, number: int, *, kind: str) -> Promotion | None:
    """The newest promotion of a kind that was asked for a version."""
    query = (
        select(Promotion)
        .where(Promotion.model_id == model.id, Promotion.stage == stage)
        .where(Promotion.number == number, Promotion.kind == kind)
        .order_by(Promotion.requested_at.desc(), Promotion.id.desc())
    )
    return session.scalar(query.limit(1))


def at(session: Session, model: Model, stage: str, moment: datetime) -> Promotion | None:
    """The promotion that had decided the stage's holder at a moment; None if it had never moved."""
    query = applied(model, stage).where(Promotion.decided_at <= moment)
    return session.scalar(query.order_by(Promotion.seq.desc()).limit(1))


def moves(session: Session, model: Model, stage: str, within: Within) -> int:
    """How often a stage moved."""
    return session.scalar(within.of(applied(model, stage)).with_only_columns(func.count())) or 0


def applied(model: Model, stage: str) -> Select[Promotion]:
    """The history of a stage, to be ordered by seq."""
    return select(Promotion).where(Promotion.model_id == model.id, Promotion.stage == stage, Promotion.seq.is_not(None))


def held(session: Session, model: Model, stage: str, expected: Expected) -> Pointer:
    """The stage as it is and stays until the transaction ends; a stage that never moved gets its row.

    Raises StageMovedError if it is not as expected.
    """
    owner = models.full_name(model)
    models.lock(session, model)
    pointer = pointers.find_stage(session, model, stage)
    holder, seq = (pointer.number, pointer.seq) if pointer is not None else (None, 0)
    if expected.holder not in (None, holder or 0) or expected.seq not in (None, seq):
        now_held = "nothing" if holder is None else f"version {holder}"
        raise StageMovedError(
            f"{owner}@{stage} holds {now_held} at seq {seq}, which is not what was expected.",
            holder=holder,
            seq=seq,
            by=pointer.moved_by if pointer is not None else None,
            at=event_time(pointer.moved_at) if pointer is not None else None,
        )
    return pointer or empty(model, stage)


def empty(model: Model, stage: str) -> Pointer:
    """The row of a stage that never moved, not yet written."""
    return Pointer(model_id=model.id, name=stage, kind="stage", number=None, seq=0)


def move(
    session: Session, actor: Actor, model: Model, pointer: Pointer, promotion: Promotion, *, now: datetime
) -> None:
    """Apply a promotion to the stage it is for, which `held` has locked: pointer, history and event in one."""
    # A clock that was set back, or read before the wait for the lock, must not put entries out of order.
    decided = max(now, pointer.moved_at) if pointer.seq else now
    promotion.state, promotion.previous, promotion.seq = "applied", pointer.number, pointer.seq + 1
    promotion.base_seq, promotion.decided_at = pointer.seq, decided
    pointer.number, pointer.seq = promotion.number, pointer.seq + 1
    pointer.moved_by, pointer.moved_at = promotion.requested_by, decided
    session.add_all((promotion, pointer))
    enqueue(session, RECONCILE, model.namespace_id, key=promotion.id)
    if promotion.number is not None:
        policies.stage_reached(session, model, promotion)
    record(session, actor, model, Action.PROMOTION_APPLY, promotion, now=now, previous=promotion.previous)


def record(
    session: Session, actor: Actor, model: Model, action: Action, promotion: Promotion, *, now: datetime, **more: object
) -> None:
    """Note what became of a promotion."""
    owner = models.full_name(model)
    detail = {
        "id": promotion.id,
        "kind": promotion.kind,
        "number": promotion.number,
        "seq": promotion.seq,
        "message": promotion.message,
        **more,
    }
    subject = f"{owner}@{promotion.stage}"
    audit.record(session, actor, action, subject, detail, chain=owner.namespace, now=now)
