"""Policies: what a stage asks of a promotion, revision by revision. A model's own comes before its namespace's."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from registry.db.queue import enqueue
from registry.db.tables import Model, Namespace, Policy, Promotion, Version
from registry.domain import policy as rules
from registry.domain.access import Permission
from registry.domain.audit import Action
from registry.domain.errors import ConflictError
from registry.domain.names import shown
from registry.services import audit, models, pointers
from registry.services.actors import Actor
from registry.services.pointers import StageNotFoundError

_SLACK_S = 3  # clocks of the worker's host and of the database differ a little
CONSIDER = "consider_version"
CONSIDER_STAGE = "consider_stage"
"""The workflows that see what more evidence, or another policy, means for a stage (see `automation`)."""


class PolicyMovedError(ConflictError):
    """The policy is not at the revision that was expected; someone else changed it."""

    code = "POLICY_MOVED"
    remedy = "Read the policy again, and repeat the change on what it says now."


def in_force(session: Session, model: Model, stage: str) -> Policy | None:
    """The policy that counts for a stage of a model; None if it asks for nothing."""
    own = session.scalar(_of_model(model, stage).limit(1))
    if own is not None and own.document is not None:
        return own
    shared = session.scalar(_of_namespace(model.namespace_id, stage).limit(1))
    return shared if shared is not None and shared.document is not None else None


def of_namespace(session: Session, namespace: Namespace, stage: str, *, stages: Sequence[str]) -> Policy | None:
    """What counts for models without a policy of their own. Raises StageNotFoundError."""
    known = namespace.stages or stages
    if stage not in known:
        raise StageNotFoundError(f"{namespace.name} has no stage {shown(stage)}.", stages=[*known])
    found = session.scalar(_of_namespace(namespace.id, stage).limit(1))
    return found if found is not None and found.document is not None else None


def read(row: Policy | None) -> rules.Policy:
    """The rules of a stored policy; those of none are open."""
    return rules.OPEN if row is None or row.document is None else rules.stored_policy(row.document)


def evidence_changed(session: Session, version: Version) -> None:
    """More is known of a version: have a worker see what that means, if any stage asks for evidence at all."""
    model = version.model
    asks = select(Policy.id).where(
        Policy.namespace_id == model.namespace_id, Policy.model_id.is_(None) | (Policy.model_id == model.id)
    )
    if session.scalar(asks.limit(1)) is not None:
        enqueue(session, CONSIDER, version.id, key=f"{version.id}:{uuid.uuid4().hex}")


def stage_reached(session: Session, model: Model, promotion: Promotion) -> None:
    """A version holds a stage: look at it again once that was for long enough for another that promotes by itself."""
    mine = Policy.model_id.is_(None) | (Policy.model_id == model.id)
    stages = select(Policy.stage).where(Policy.namespace_id == model.namespace_id, mine).distinct()
    for stage in session.scalars(stages.order_by(Policy.stage)).all():
        policy = read(in_force(session, model, stage))
        asked = policy.require_stage
        if policy.auto is not None and asked is not None and asked.stage == promotion.stage:
            version = select(Version.id).where(Version.model_id == model.id, Version.number == promotion.number)
            delay_s = asked.soak_s + _SLACK_S
            key = f"{promotion.id}:{stage}"
            enqueue(session, CONSIDER, session.scalars(version).one(), key=key, delay_s=delay_s)


def revisions_of(session: Session, promotions: Sequence[Promotion]) -> dict[int, int]:
    """The revisions that some promotions were judged by, by the policy's id."""
    ids = {promotion.policy_id for promotion in promotions if promotion.policy_id is not None}
    query = select(Policy.id, Policy.revision).where(Policy.id.in_(ids))
    return {row.id: row.revision for row in session.execute(query)} if ids else {}


def revisions(session: Session, model: Model, stage: str, *, before: int | None, limit: int) -> list[Policy]:
    """A model's own policies, newest first, `limit + 1` at most."""
    return _page(session, _of_model(model, stage), before=before, limit=limit)


def revisions_of_namespace(
    session: Session, model: Model, stage: str, *, before: int | None, limit: int
) -> list[Policy]:
    """The policies of a model's namespace, newest first, `limit + 1` at most."""
    return _page(session, _of_namespace(model.namespace_id, stage), before=before, limit=limit)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a policy: the document (None takes a model's own away), why, and the revision it was made on."""

    document: dict[str, Any] | None
    message: str = ""
    expect: int | None = None


def set_for_model(
    session: Session, actor: Actor, model: Model, stage: str, change: Change, *, stages: Sequence[str], now: datetime
) -> Policy | None:
    """Give a stage of one model a policy of its own. The same again changes nothing. None if it had none to take away.

    Raises StageNotFoundError, InvalidPolicyError, PolicyMovedError or PermissionDeniedError.
    """
    owner = models.full_name(model)
    actor.check(Permission.POLICY_SET, owner)
    models.lock(session, model)
    pointers.check_stage(model, stage, stages)
    newest = session.scalar(_of_model(model, stage).limit(1))
    known = models.stages_of(model, stages)
    row = _revised(newest, change, stages=known, stage=stage, actor=actor, now=now)
    if row is newest or row is None:
        return row
    row.namespace_id, row.model_id = model.namespace_id, model.id
    return _announced(session, actor, row, f"{owner}@{stage}", chain=owner.namespace, now=now)


def set_for_namespace(
    session: Session,
    actor: Actor,
    namespace: Namespace,
    stage: str,
    change: Change,
    *,
    stages: Sequence[str],
    now: datetime,
) -> Policy | None:
    """Give a stage a policy in every model of the namespace that has none of its own. Raises as `set_for_model`."""
    actor.check_namespace(Permission.POLICY_SET, namespace.name)
    lock_namespace(session, namespace)
    known = namespace.stages or stages
    if stage not in known:
        raise StageNotFoundError(f"{namespace.name} has no stage {shown(stage)}.", stages=[*known])
    newest = session.scalar(_of_namespace(namespace.id, stage).limit(1))
    row = _revised(newest, change, stages=known, stage=stage, actor=actor, now=now)
    if row is newest or row is None:
        return row
    row.namespace_id = namespace.id
    return _announced(session, actor, row, f"{namespace.name}@{stage}", chain=namespace.name, now=now)


def lock_namespace(session: Session, namespace: Namespace) -> None:
    """Hold the namespace's row until the transaction ends: its policies change in a row."""
    session.scalars(select(Namespace).where(Namespace.id == namespace.id).with_for_update()).one()


def _revised(
    newest: Policy | None, change: Change, *, stages: Sequence[str], stage: str, actor: Actor, now: datetime
) -> Policy | None:
    """The next revision, or the newest if that says the same already."""
    present = newest.revision if newest is not None else 0
    if change.expect is not None and change.expect != present:
        raise PolicyMovedError(f"The policy is at revision {present}, not {change.expect}.", revision=present)
    if change.document is not None:
        rules.read_policy(change.document, stages=stages, stage=stage)
    if newest is None and change.document is None:
        return None
    if newest is not None and newest.document == change.document:
        return newest
    return Policy(
        stage=stage,
        revision=present + 1,
        document=change.document,
        message=change.message,
        created_by=actor.name,
        created_at=now,
    )


def _announced(session: Session, actor: Actor, row: Policy, subject: str, *, chain: str, now: datetime) -> Policy:
    session.add(row)
    session.flush()  # promotions name it
    enqueue(session, CONSIDER_STAGE, row.id, key=str(row.id))
    detail = {"revision": row.revision, "policy": row.document, "message": row.message}
    audit.record(session, actor, Action.POLICY_SET, subject, detail, chain=chain, now=now)
    return row


def _page(session: Session, query: Select[Policy], *, before: int | None, limit: int) -> list[Policy]:
    if before is not None:
        query = query.where(Policy.revision < before)
    return list(session.scalars(query.limit(limit + 1)))


def _of_model(model: Model, stage: str) -> Select[Policy]:
    return select(Policy).where(Policy.model_id == model.id, Policy.stage == stage).order_by(Policy.revision.desc())


def _of_namespace(namespace_id: int, stage: str) -> Select[Policy]:
    mine = (Policy.namespace_id == namespace_id, Policy.model_id.is_(None), Policy.stage == stage)
    return select(Policy).where(*mine).order_by(Policy.revision.desc())
