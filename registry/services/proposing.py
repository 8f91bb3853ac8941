"""Proposing: what people and jobs ask of a stage. A request is judged at once, and applied, left pending, or failed.

A failed one is a committed record with its gates and evidence; it moves nothing and takes no number in the history.
Promoting the version that holds the stage already is recorded like any other: it is a renewed decision.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import and_
from sqlalchemy.orm import Session

from registry.db.tables import Model, Pointer, Promotion, Version
from registry.domain.access import Permission
from registry.domain.errors import ConflictError, InvalidError, VersionDamagedError
from registry.services import deciding, judging, models, pointers, promotions, versions
from registry.services.actors import Actor
from registry.services.judging import Judgement
from registry.services.promotions import ANYTHING, Expected

Kind = Literal["promote", "force", "auto"]


class StageEmptyError(ConflictError):
    """Nothing holds the stage, so nothing can be taken off it."""

    code = "STAGE_EMPTY"
    remedy = "Nothing needs to be done."


class StageFrozenError(ConflictError):
    """The stage's policy says that nothing may move for now, and why."""

    code = "STAGE_FROZEN"
    remedy = "Wait until the freeze is lifted; an admin can lift it in the policy, or force a promotion."


class ReasonRequiredError(InvalidError):
    """A promotion was forced without saying why."""

    code = "REASON_REQUIRED"
    remedy = "Say why with -m WHY: it stays in the history for ever."


class NothingToRollBackError(ConflictError):
    """No earlier holder of the stage can be returned to."""

    code = "NOTHING_TO_ROLL_BACK"
    remedy = "Promote a version instead; 'registry history NAME STAGE' shows what held the stage."


class NotAFormerHolderError(ConflictError):
    """The version never held the stage before the present holder."""

    code = "NOT_A_FORMER_HOLDER"
    remedy = "Promote the version instead; a rollback only returns to what held the stage."


def promote(
    session: Session,
    actor: Actor,
    model: Model,
    stage: str,
    number: int,
    *,
    stages: Sequence[str],
    now: datetime,
    kind: Kind = "promote",
    expected: Expected = ANYTHING,
    message: str = "",
) -> Promotion:
    """Ask that a ready version become the stage's holder. `force` skips gates, approvals and freeze, not the record.

    Raises StageNotFoundError, StageMovedError, StageFrozenError, ReasonRequiredError, VersionNotFoundError,
    VersionTrashedError, VersionPurgedError, VersionDamagedError or PermissionDeniedError.
    """
    forced = kind == "force"
    actor.check(Permission.PROMOTION_FORCE if forced else Permission.PROMOTION_REQUEST, models.full_name(model))
    if forced and not message.strip():
        raise ReasonRequiredError("A forced promotion needs a reason.")
    before = promotions.held(session, model, pointers.check_stage(model, stage, stages), expected)
    version = _intact(pointers.ready_version(session, model, number))
    return _propose(session, actor, model, before, version, kind=kind, message=message, now=now)


def demote(
    session: Session,
    actor: Actor,
    model: Model,
    stage: str,
    *,
    stages: Sequence[str],
    now: datetime,
    expected: Expected = ANYTHING,
    message: str = "",
) -> Promotion:
    """Ask that the stage become empty. Raises StageEmptyError, or as `promote`."""
    actor.check(Permission.PROMOTION_REQUEST, models.full_name(model))
    before = promotions.held(session, model, pointers.check_stage(model, stage, stages), expected)
    if before.number is None:
        raise StageEmptyError(f"Nothing holds {models.full_name(model)}@{stage}.", stage=stage, seq=before.seq)
    return _propose(session, actor, model, before, None, kind="demote", message=message, now=now)


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
    """Ask to return to version `to`, which held the stage before; None is the latest other holder that is still good.

    Raises NothingToRollBackError, NotAFormerHolderError, or as `promote`.
    """
    actor.check(Permission.PROMOTION_ROLLBACK, models.full_name(model))
    before = promotions.held(session, model, pointers.check_stage(model, stage, stages), expected)
    version = _last_other(session, model, before) if to is None else _former(session, model, before, to)
    return _propose(session, actor, model, before, version, kind="rollback", message=message, now=now)


def preview(
    session: Session, actor: Actor, model: Model, stage: str, number: int, *, stages: Sequence[str], now: datetime
) -> Judgement:
    """What the gates would say now; nothing is written. Raises as `promote`, but not that the stage is frozen."""
    actor.check(Permission.PROMOTION_READ, models.full_name(model))
    pointers.check_stage(model, stage, stages)
    pointer = pointers.find_stage(session, model, stage) or promotions.empty(model, stage)
    version = _intact(pointers.ready_version(session, model, number))
    return judging.judge(session, model, pointer, version, kind="promote", now=now)


def _propose(
    session: Session,
    actor: Actor,
    model: Model,
    before: Pointer,
    version: Version | None,
    *,
    kind: str,
    message: str,
    now: datetime,
) -> Promotion:
    judged = judging.judge(session, model, before, version, kind=kind, now=now)
    if judged.policy.freeze is not None and kind != "force":
        name = f"{models.full_name(model)}@{before.name}"
        raise StageFrozenError(f"{name} is frozen: {judged.policy.freeze}", stage=before.name)
    promotion = Promotion(
        id=uuid.uuid4().hex,
        model_id=model.id,
        stage=before.name,
        kind=kind,
        state="pending",
        number=version.number if version is not None else None,
        previous=before.number,
        base_seq=before.seq,
        message=message,
        policy_id=judged.policy_id,
        gates=judged.rows(),
        evidence_sha256=judged.evidence_sha256,
        requested_by=actor.name,
        requested_at=now,
        expires_at=now + timedelta(seconds=judged.policy.expires_s),
    )
    session.add(promotion)
    session.flush()
    deciding.conclude(session, actor, model, before, promotion, judged=judged, now=now, is_new=True)
    return promotion


def _last_other(session: Session, model: Model, pointer: Pointer) -> Version:
    """The latest holder before the present one that may hold the stage again. Raises NothingToRollBackError."""
    query = (
        promotions.applied(model, pointer.name)
        .join(Version, and_(Version.model_id == Promotion.model_id, Version.number == Promotion.number))
        .where(Version.state == "ready", Version.integrity != "damaged")
    )
    if pointer.number is not None:
        query = query.where(Promotion.number != pointer.number)
    found = session.scalar(query.order_by(Promotion.seq.desc()).limit(1))
    if found is None or found.number is None:
        name = f"{models.full_name(model)}@{pointer.name}"
        raise NothingToRollBackError(f"{name} has no earlier holder to return to.", stage=pointer.name)
    return pointers.ready_version(session, model, found.number)


def _former(session: Session, model: Model, pointer: Pointer, number: int) -> Version:
    """The version if it held the stage before. Raises NotAFormerHolderError or as `ready_version`."""
    once = session.scalar(promotions.applied(model, pointer.name).where(Promotion.number == number).limit(1))
    if once is None or number == pointer.number:
        name = f"{models.full_name(model)}@{pointer.name}"
        what = "never held" if once is None else "is what holds"
        raise NotAFormerHolderError(f"Version {number} {what} {name}.", stage=pointer.name, number=number)
    return _intact(pointers.ready_version(session, model, number))


def _intact(version: Version) -> Version:
    if version.integrity == "damaged":
        raise VersionDamagedError(f"{versions.name_of(version)} is damaged in the store.", number=version.number)
    return version
