"""Promotions: the only way a stage moves. Applied ones, numbered from 1 without gaps, are the stage's history.

Whoever moves a stage holds the model's row from the comparison with what was expected to the end of the transaction,
so of any number who expect the same holder one wins, and the others learn who it was.

Promoting the version that holds the stage already is recorded like any other: it is a renewed decision, with its own
actor, time and message. Every accepted request is one entry.
"""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Select, and_, select
from sqlalchemy.orm import Session, contains_eager

from registry.db.queue import enqueue
from registry.db.tables import Model, Pointer, Promotion, Version
from registry.domain.access import Permission
from registry.domain.audit import Action, event_time
from registry.domain.errors import ConflictError, NotFoundError, VersionDamagedError
from registry.domain.names import ModelName, shown
from registry.services import audit, models, pointers, versions
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


class StageEmptyError(ConflictError):
    """Nothing holds the stage, so nothing can be taken off it."""

    code = "STAGE_EMPTY"
    remedy = "Nothing needs to be done."


class NothingToRollBackError(ConflictError):
    """No earlier holder of the stage can be returned to."""

    code = "NOTHING_TO_ROLL_BACK"
    remedy = "Promote a version instead; 'registry history NAME STAGE' shows what held the stage."


class NotAFormerHolderError(ConflictError):
    """The version never held the stage before the present holder."""

    code = "NOT_A_FORMER_HOLDER"
    remedy = "Promote the version instead; a rollback only returns to what held the stage."


@dataclass(frozen=True, slots=True)
class Expected:
    """What the one who asks saw of the stage: the holder's number (0 for none) and its seq; None is no claim."""

    holder: int | None = None
    seq: int | None = None


ANYTHING: Final = Expected()


def apply(
    session: Session,
    actor: Actor,
    model: Model,
    stage: str,
    number: int | None,
    *,
    stages: Sequence[str],
    now: datetime,
    expected: Expected = ANYTHING,
    message: str = "",
) -> Promotion:
    """Make a ready version the stage's holder; None empties the stage.

    Raises StageNotFoundError, StageMovedError, StageEmptyError, VersionNotFoundError, VersionTrashedError,
    VersionPurgedError, VersionDamagedError or PermissionDeniedError.
    """
    actor.check(Permission.PROMOTION_REQUEST, models.full_name(model))
    before = _held(session, model, pointers.check_stage(stage, stages), expected)
    if number is not None:
        _intact(pointers.ready_version(session, model, number))
    elif before.number is None:
        raise StageEmptyError(f"Nothing holds {models.full_name(model)}@{stage}.", stage=stage, seq=before.seq)
    kind = "demote" if number is None else "promote"
    return _move(session, actor, model, before, kind=kind, number=number, message=message, now=now)


def rollback(
    session: Session,
    actor: Actor,
    model: Model,
    stage: str,
    to: int | None,
    *,
    stages: Sequence[str],
    now: datetime,
    expected: Expected = ANYTHING,
    message: str = "",
) -> Promotion:
    """Return the stage to version `to`, which held it before; None is the latest other holder that is still good.

    Raises NothingToRollBackError, NotAFormerHolderError, StageNotFoundError, StageMovedError, VersionTrashedError,
    VersionPurgedError, VersionDamagedError or PermissionDeniedError.
    """
    actor.check(Permission.PROMOTION_ROLLBACK, models.full_name(model))
    before = _held(session, model, pointers.check_stage(stage, stages), expected)
    number = _last_other(session, model, before) if to is None else _former(session, model, before, to)
    return _move(session, actor, model, before, kind="rollback", number=number, message=message, now=now)


def find(session: Session, actor: Actor, promotion_id: str) -> tuple[Promotion, ModelName]:
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
    return found[0], models.full_name(found[1])


def history(session: Session, model: Model, stage: str, *, before: int | None, limit: int) -> list[Promotion]:
    """Applied promotions of a stage, newest first, `limit + 1` at most."""
    query = _applied(model, stage)
    if before is not None:
        query = query.where(Promotion.seq < before)
    return list(session.scalars(query.order_by(Promotion.seq.desc()).limit(limit + 1)))


def at(session: Session, model: Model, stage: str, moment: datetime) -> Promotion | None:
    """The promotion that had decided the stage's holder at a moment; None if it had never moved."""
    query = _applied(model, stage).where(Promotion.decided_at <= moment)
    return session.scalar(query.order_by(Promotion.seq.desc()).limit(1))


def _applied(model: Model, stage: str) -> Select[Promotion]:
    return select(Promotion).where(Promotion.model_id == model.id, Promotion.stage == stage, Promotion.seq.is_not(None))


def _held(session: Session, model: Model, stage: str, expected: Expected) -> Pointer:
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
    return pointer or Pointer(model_id=model.id, name=stage, kind="stage", number=None, seq=0)


def _move(
    session: Session,
    actor: Actor,
    model: Model,
    pointer: Pointer,
    *,
    kind: str,
    number: int | None,
    message: str,
    now: datetime,
) -> Promotion:
    owner = models.full_name(model)
    # A clock that was set back, or read before the wait for the lock, must not put entries out of order.
    decided = max(now, pointer.moved_at) if pointer.seq else now
    promotion = Promotion(
        id=uuid.uuid4().hex,
        model_id=model.id,
        stage=pointer.name,
        kind=kind,
        state="applied",
        number=number,
        previous=pointer.number,
        seq=pointer.seq + 1,
        base_seq=pointer.seq,
        message=message,
        gates=[],
        requested_by=actor.name,
        requested_at=now,
        decided_at=decided,
    )
    pointer.number, pointer.seq, pointer.moved_by, pointer.moved_at = number, pointer.seq + 1, actor.name, decided
    session.add_all((promotion, pointer))
    detail = {
        "id": promotion.id,
        "kind": kind,
        "number": number,
        "previous": promotion.previous,
        "seq": promotion.seq,
        "message": message,
    }
    subject = f"{owner}@{pointer.name}"
    enqueue(session, RECONCILE, model.namespace_id, key=promotion.id)
    audit.record(session, actor, Action.PROMOTION_APPLY, subject, detail, chain=owner.namespace, now=now)
    return promotion


def _last_other(session: Session, model: Model, pointer: Pointer) -> int:
    """The latest holder before the present one that may hold the stage again. Raises NothingToRollBackError."""
    query = (
        _applied(model, pointer.name)
        .join(Version, and_(Version.model_id == Promotion.model_id, Version.number == Promotion.number))
        .where(Version.state == "ready", Version.integrity != "damaged")
    )
    if pointer.number is not None:
        query = query.where(Promotion.number != pointer.number)
    found = session.scalar(query.order_by(Promotion.seq.desc()).limit(1))
    if found is None or found.number is None:
        name = f"{models.full_name(model)}@{pointer.name}"
        raise NothingToRollBackError(f"{name} has no earlier holder to return to.", stage=pointer.name)
    return found.number


def _former(session: Session, model: Model, pointer: Pointer, number: int) -> int:
    """The same number if that version held the stage before. Raises NotAFormerHolderError or as `ready_version`."""
    once = session.scalar(_applied(model, pointer.name).where(Promotion.number == number).limit(1))
    if once is None or number == pointer.number:
        name = f"{models.full_name(model)}@{pointer.name}"
        what = "never held" if once is None else "is what holds"
        raise NotAFormerHolderError(f"Version {number} {what} {name}.", stage=pointer.name, number=number)
    _intact(pointers.ready_version(session, model, number))
    return number


def _intact(version: Version) -> None:
    if version.integrity == "damaged":
        raise VersionDamagedError(f"{versions.name_of(version)} is damaged in the store.", number=version.number)
