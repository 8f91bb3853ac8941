"""Lists of promotions across stages, versions and models: what waits on whom, and what became of what was asked for."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, contains_eager

from registry.db.tables import Approval, Model, Namespace, Policy, Promotion, Version
from registry.domain.access import Permission, Role
from registry.services import models
from registry.services.actors import Actor

REFUSED: Final = ("failed", "rejected", "cancelled", "expired")
"""States of a request that moved nothing."""


class Standing(NamedTuple):
    """What is known of a version without its content."""

    number: int
    state: str
    integrity: str
    created_by: str

    @property
    def is_good(self) -> bool:
        """Whether it may hold a stage."""
        return self.state == "ready" and self.integrity != "damaged"


def refused(session: Session, model: Model, stage: str, *, limit: int) -> list[Promotion]:
    """What was asked of a stage and moved nothing, the last asked for first, `limit + 1` at most."""
    query = select(Promotion).where(
        Promotion.model_id == model.id, Promotion.stage == stage, Promotion.state.in_(REFUSED)
    )
    return list(session.scalars(query.order_by(Promotion.requested_at.desc(), Promotion.id.desc()).limit(limit + 1)))


def of_version(session: Session, version: Version, *, limit: int) -> list[Promotion]:
    """Whatever was asked for a version on any stage, the last asked for first, `limit + 1` at most."""
    query = select(Promotion).where(Promotion.model_id == version.model_id, Promotion.number == version.number)
    return list(session.scalars(query.order_by(Promotion.requested_at.desc(), Promotion.id.desc()).limit(limit + 1)))


def waiting(session: Session, model_ids: Collection[int], *, now: datetime) -> dict[tuple[int, str], int]:
    """How many promotions wait on the stages of some models, by the model's id and the stage."""
    query = (
        select(Promotion.model_id, Promotion.stage, func.count())
        .where(Promotion.model_id.in_(model_ids), Promotion.state == "pending", Promotion.expires_at > now)
        .group_by(Promotion.model_id, Promotion.stage)
    )
    found = session.execute(query) if model_ids else ()
    return {(model_id, stage): count for model_id, stage, count in found}


def standing(session: Session, model: Model, numbers: Collection[int]) -> dict[int, Standing]:
    """Some versions of a model, by number."""
    query = select(Version.number, Version.state, Version.integrity, Version.created_by)
    query = query.where(Version.model_id == model.id, Version.number.in_(numbers))
    return {row.number: Standing(*row) for row in session.execute(query)} if numbers else {}


def awaiting(
    session: Session, actor: Actor, *, now: datetime, limit: int
) -> Sequence[tuple[Promotion, Model, Policy | None]]:
    """Pending promotions that an actor may decide on, what expires first first, with the policies they were judged by.

    Not what the actor asked for, uploaded or has agreed to. One query; `limit + 1` at most.
    """
    deciding = [name for name, role in actor.roles.items() if role >= Role.PROMOTER]
    has_agreed = exists().where(
        Approval.promotion_id == Promotion.id, Approval.user_id == actor.user_id, Approval.lapsed_at.is_(None)
    )
    query = (
        select(Promotion, Model, Policy)
        .join(Model, Model.id == Promotion.model_id)
        .join(Model.namespace)
        .outerjoin(Policy, Policy.id == Promotion.policy_id)
        .outerjoin(Version, (Version.model_id == Promotion.model_id) & (Version.number == Promotion.number))
        .options(contains_eager(Model.namespace))
        .where(Promotion.state == "pending", Promotion.expires_at > now, Model.deleted_at.is_(None))
        .where(Promotion.requested_by != actor.name, ~has_agreed)
        .where(Version.created_by.is_(None) | (Version.created_by != actor.name))
        .order_by(Promotion.expires_at, Promotion.id)
        .limit(limit + 1)
    )
    if not actor.is_admin:
        if not deciding:
            return []
        query = query.where(Namespace.folded.in_(deciding))
    return [
        (promotion, model, policy)
        for promotion, model, policy in session.execute(query)
        if actor.may(Permission.PROMOTION_DECIDE, models.full_name(model))
    ]
