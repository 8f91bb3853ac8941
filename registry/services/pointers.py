"""Pointers: the names inside one model that mean one version. An alias moves freely, a stage only by promotion.

Both are rows of one table, so that an alias and a stage cannot share a name. Which names are stages is a setting; a
stage gets its row when it first moves.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, contains_eager

from registry.db.tables import Model, Pointer, Version
from registry.domain.access import Permission
from registry.domain.audit import Action
from registry.domain.errors import ConflictError, NotFoundError
from registry.domain.names import check_pointer, shown
from registry.services import audit, models, versions
from registry.services.actors import Actor
from registry.services.versions import PointerNotFoundError, VersionNotFoundError

_NAMED = 20  # models that a refusal lists


class AliasIsStageError(ConflictError):
    """An alias was named like a stage, which only promotions move."""

    code = "ALIAS_IS_STAGE"
    remedy = "Choose another name for the alias, or move the stage with 'registry promote REF --to STAGE'."


class StageNameTakenError(ConflictError):
    """A configured stage has the name of an alias that some model already has."""

    code = "STAGE_NAME_TAKEN"
    remedy = "Remove the alias from each of the models with 'registry alias rm', or give the stage another name."


class StageNotFoundError(NotFoundError):
    """The model has no stage of that name."""

    code = "STAGE_NOT_FOUND"
    remedy = "Use one of the stages there are; an admin adds one for the namespace or the model."


def stages_of(session: Session, model_ids: Sequence[int]) -> dict[int, list[Pointer]]:
    """The stages of some models that were ever moved, by model id: one query, however many models."""
    found: dict[int, list[Pointer]] = {}
    query = select(Pointer).where(Pointer.model_id.in_(model_ids), Pointer.kind == "stage").order_by(Pointer.name)
    for pointer in session.scalars(query) if model_ids else ():
        found.setdefault(pointer.model_id, []).append(pointer)
    return found


def of_model(session: Session, model: Model) -> list[Pointer]:
    """Every alias and every stage that was ever moved, by name."""
    return list(session.scalars(select(Pointer).where(Pointer.model_id == model.id).order_by(Pointer.name)))


def page_of_aliases(session: Session, model: Model, *, after: str | None, limit: int) -> list[Pointer]:
    """Aliases by name, `limit + 1` at most."""
    query = select(Pointer).where(Pointer.model_id == model.id, Pointer.kind == "alias")
    if after is not None:
        query = query.where(Pointer.name > after)
    return list(session.scalars(query.order_by(Pointer.name).limit(limit + 1)))


def find_alias(session: Session, model: Model, name: str) -> Pointer:
    """The alias. Raises PointerNotFoundError, or what `check_pointer` raises."""
    pointer = _row(session, model, check_pointer(name))
    if pointer is None or pointer.kind != "alias":
        owner = models.full_name(model)
        raise PointerNotFoundError(f"{owner} has no alias {name}.", model=str(owner), alias=name)
    return pointer


def find_stage(session: Session, model: Model, stage: str) -> Pointer | None:
    """The stage's row as it is now; None if it never moved. Raises StageNameTakenError if it is an alias."""
    pointer = _row(session, model, stage)
    if pointer is not None and pointer.kind != "stage":
        raise stage_name_taken(stage, [str(models.full_name(model))])
    return pointer


def point(
    session: Session, actor: Actor, model: Model, name: str, number: int, *, stages: Sequence[str], now: datetime
) -> Pointer:
    """Make `model@name` mean a ready version, creating the alias if it is new. Repeating it changes nothing.

    `stages` are those of the server. Raises AliasIsStageError, VersionNotFoundError, VersionTrashedError,
    VersionPurgedError, PermissionDeniedError, or what `check_pointer` raises.
    """
    owner = models.full_name(model)
    actor.check(Permission.ALIAS_POINT, owner)
    check_pointer(name)
    models.lock(session, model)
    pointer = _row(session, model, name)
    if name in models.stages_of(model, stages) or (pointer is not None and pointer.kind == "stage"):
        raise AliasIsStageError(f"{shown(name)} is a stage of {owner}, not an alias.", name=name)
    ready_version(session, model, number)
    before = pointer.number if pointer is not None else None
    if pointer is not None and before == number:
        return pointer
    if pointer is None:
        pointer = Pointer(model_id=model.id, name=name, kind="alias", seq=0)
        session.add(pointer)
    pointer.number, pointer.seq, pointer.moved_by, pointer.moved_at = number, pointer.seq + 1, actor.name, now
    detail = {"number": number, "previous": before}
    audit.record(session, actor, Action.ALIAS_POINT, f"{owner}@{name}", detail, chain=owner.namespace, now=now)
    return pointer


def remove(session: Session, actor: Actor, model: Model, name: str, *, now: datetime) -> Pointer:
    """Take the alias away; gives what it was. Raises PointerNotFoundError or PermissionDeniedError."""
    owner = models.full_name(model)
    actor.check(Permission.ALIAS_REMOVE, owner)
    models.lock(session, model)
    pointer = find_alias(session, model, name)
    session.delete(pointer)
    detail = {"number": pointer.number}
    audit.record(session, actor, Action.ALIAS_REMOVE, f"{owner}@{name}", detail, chain=owner.namespace, now=now)
    return pointer


def ready_version(session: Session, model: Model, number: int) -> Version:
    """The version a pointer may be moved to, while the model is locked.

    Raises VersionNotFoundError, VersionTrashedError or VersionPurgedError.
    """
    query = select(Version).where(Version.model_id == model.id, Version.number == number)
    version = session.scalar(query.execution_options(populate_existing=True))
    if version is None:
        owner = models.full_name(model)
        raise VersionNotFoundError(f"{owner} has no version {number}.", model=str(owner), number=number)
    version.model = model
    return versions.live(version)


def check_stage(model: Model, stage: str, stages: Sequence[str]) -> str:
    """Check that it is one of the model's stages; `stages` are those of the server. Raises StageNotFoundError."""
    known = models.stages_of(model, stages)
    if stage not in known:
        owner = models.full_name(model)
        message = f"{owner} has no stage {shown(stage)}; it has {', '.join(known)}."
        raise StageNotFoundError(message, stages=[*known])
    return stage


def check_stage_names(session: Session, stages: Sequence[str]) -> None:
    """Check the configured stages against the aliases there are.

    Raises StageNameTakenError listing the models, or what `check_pointer` raises.
    """
    for stage in stages:
        check_pointer(stage)
    clashes = (
        select(Pointer.name, Model)
        .join(Model, Model.id == Pointer.model_id)
        .join(Model.namespace)
        .options(contains_eager(Model.namespace))
        .where(Pointer.name.in_(stages), Pointer.kind == "alias", Model.deleted_at.is_(None))
        .order_by(Pointer.name, Model.id)
    )
    taken: dict[str, list[str]] = {}
    for name, model in session.execute(clashes):
        taken.setdefault(name, []).append(str(models.full_name(model)))
    for stage, owners in taken.items():
        raise stage_name_taken(stage, owners)


def stage_name_taken(stage: str, owners: list[str]) -> StageNameTakenError:
    """The refusal that names the models whose alias is in the way."""
    rest = f" and {len(owners) - _NAMED} more" if len(owners) > _NAMED else ""
    return StageNameTakenError(
        f"The stage {shown(stage)} has the name of an alias of {', '.join(owners[:_NAMED])}{rest}.",
        stage=stage,
        models=owners[:_NAMED],
    )


def _row(session: Session, model: Model, name: str) -> Pointer | None:
    """The row as it is now: another transaction may have moved it since this one first looked."""
    query = select(Pointer).where(Pointer.model_id == model.id, Pointer.name == name)
    return session.scalar(query.execution_options(populate_existing=True))
