"""Stages: which there are, named for a namespace or for one model of it; else those that the server is set up with."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, contains_eager

from registry.db.tables import Model, Namespace, Pointer
from registry.domain.access import Permission
from registry.domain.audit import Action
from registry.domain.errors import ConflictError, InvalidError
from registry.domain.names import check_pointer
from registry.services import audit, models, pointers
from registry.services.actors import Actor


class StageInUseError(ConflictError):
    """A stage that would go away is held by a version."""

    code = "STAGE_IN_USE"
    remedy = "Empty the stage with 'registry demote NAME STAGE' first."


class StageTwiceError(InvalidError):
    """A list of stages names one twice."""

    code = "STAGE_TWICE"
    remedy = "Name each stage once, in the order a version climbs."


def set_for_model(
    session: Session, actor: Actor, model: Model, names: Sequence[str] | None, *, stages: Sequence[str], now: datetime
) -> Sequence[str]:
    """Name the stages of one model, None for those of its namespace. Gives the stages it then has.

    Raises StageTwiceError, StageInUseError, StageNameTakenError, PermissionDeniedError, or as `check_pointer`.
    """
    owner = models.full_name(model)
    actor.check(Permission.POLICY_SET, owner)
    models.lock(session, model)
    wanted = _checked(names) or model.namespace.stages or stages
    _check_use(session, [model], wanted)
    if names != model.stages:
        model.stages = list(names) if names is not None else None
        detail = {"stages": model.stages}
        audit.record(session, actor, Action.STAGES_SET, str(owner), detail, chain=owner.namespace, now=now)
    return wanted


def set_for_namespace(
    session: Session,
    actor: Actor,
    namespace: Namespace,
    names: Sequence[str] | None,
    *,
    stages: Sequence[str],
    now: datetime,
) -> Sequence[str]:
    """Name the stages of every model in a namespace that names none itself. Raises as `set_for_model`."""
    actor.check_namespace(Permission.POLICY_SET, namespace.name)
    wanted = _checked(names) or stages
    query = (
        select(Model)
        .join(Model.namespace)
        .options(contains_eager(Model.namespace))
        .where(Model.namespace_id == namespace.id, Model.stages.is_(None))
        .order_by(Model.id)
        .with_for_update(of=Model)
    )
    _check_use(session, list(session.scalars(query)), wanted)
    if names != namespace.stages:
        namespace.stages = list(names) if names is not None else None
        detail = {"stages": namespace.stages}
        audit.record(session, actor, Action.STAGES_SET, namespace.name, detail, chain=namespace.name, now=now)
    return wanted


def _checked(names: Sequence[str] | None) -> Sequence[str] | None:
    for name in names or ():
        check_pointer(name)
    if names is not None and len(set(names)) != len(names):
        raise StageTwiceError("A stage is named twice.")
    return names


def _check_use(session: Session, owners: Sequence[Model], wanted: Sequence[str]) -> None:
    """No stage that goes away may be held, no new one may have the name of an alias."""
    by_id = {owner.id: owner for owner in owners}
    if not by_id:
        return
    query = select(Pointer).where(Pointer.model_id.in_(by_id)).order_by(Pointer.model_id, Pointer.name)
    aliases: dict[str, list[str]] = {}
    for pointer in session.scalars(query):
        name = str(models.full_name(by_id[pointer.model_id]))
        if pointer.kind == "stage" and pointer.number is not None and pointer.name not in wanted:
            message = f"Version {pointer.number} holds {name}@{pointer.name}, which would go away."
            raise StageInUseError(message, model=name, stage=pointer.name, number=pointer.number)
        if pointer.kind == "alias" and pointer.name in wanted:
            aliases.setdefault(pointer.name, []).append(name)
    for stage, clashing in aliases.items():
        raise pointers.stage_name_taken(stage, clashing)
