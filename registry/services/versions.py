"""Versions: found by reference, listed, described, put in the trash and taken out again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, func, select
from sqlalchemy.orm import Session, aliased, contains_eager

from registry.db.reading import Reading
from registry.db.tables import Artifact, LineageEdge, Metric, Model, Namespace, Pointer, Version, VersionTag
from registry.domain.access import Permission
from registry.domain.audit import Action
from registry.domain.errors import ConflictError, GoneError, NotFoundError
from registry.domain.names import BEST, ModelName, fold
from registry.domain.references import Reference
from registry.services import audit, models
from registry.services.actors import Actor


class VersionNotFoundError(NotFoundError):
    """The model has no such version, or nothing the reference could mean."""

    code = "VERSION_NOT_FOUND"
    remedy = "List what there is with 'registry versions NAME'."


class PointerNotFoundError(NotFoundError):
    """The model has no alias or stage of that name, or the stage is empty."""

    code = "POINTER_NOT_FOUND"
    remedy = "See the model's stages and aliases with 'registry show NAME'."


class NoObjectiveError(NotFoundError):
    """`@best` was asked of a model that has no objective, or no version measured by it."""

    code = "NO_BEST_VERSION"
    remedy = "Set the model's objective, and record that metric on a release."


class VersionTrashedError(GoneError):
    """The version is in the trash."""

    code = "VERSION_TRASHED"
    remedy = "Take it out with 'registry restore REF' while it is there."


class VersionPurgedError(GoneError):
    """The version was deleted for good; its number is never used again."""

    code = "VERSION_PURGED"
    remedy = "Use another version."


class VersionInUseError(ConflictError):
    """The version is on a stage, aliased, pinned or a parent, so it cannot be deleted."""

    code = "VERSION_IN_USE"
    remedy = "Undo each of the reasons first: demote, remove the alias, unpin, or delete the children."


class VersionNotTrashedError(ConflictError):
    """Only a version in the trash can be restored."""

    code = "VERSION_NOT_TRASHED"
    remedy = "Nothing needs to be done."


@dataclass(slots=True)
class Surroundings:
    """What lists show beside a version, by version id; collected with a fixed number of queries a page."""

    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    parents: dict[int, list[tuple[LineageEdge, ModelName | None, int | None]]] = field(default_factory=dict)
    pointers: dict[int, list[Pointer]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Meant:
    """What a reference means, in as much as most who ask want to know. `digest` is in hex."""

    id: int
    model: ModelName
    number: int
    digest: str


def name_of(version: Version) -> str:
    """`namespace/name:7`."""
    return f"{models.full_name(version.model)}:{version.number}"


def resolve(session: Session, actor: Actor, reference: Reference) -> Version:
    """The ready version a reference means now.

    Raises ModelNotFoundError, VersionNotFoundError, PointerNotFoundError, NoObjectiveError, VersionTrashedError or
    VersionPurgedError.
    """
    actor.check(Permission.VERSION_READ, reference.model)
    version = session.scalar(_query(session, reference))
    if version is None:
        raise _missing(session, actor, reference)
    return live(version)


def glance(connection: Connection, actor: Actor, reference: Reference) -> Meant | None:
    """The ready version a reference means now, by one statement; None leaves to `resolve` what it means or lacks.

    Raises ModelNotFoundError or PermissionDeniedError. Servers that serve a model ask this all day.
    """
    actor.check(Permission.VERSION_READ, reference.model)
    values: dict[str, object] = {
        "namespace": fold(reference.model.namespace), "model": fold(reference.model.name)
    }  # fmt: skip
    if reference.number is not None:
        query, values["number"] = _BY_NUMBER, reference.number
    elif reference.digest is not None:
        query, values["digest"] = _BY_DIGEST, reference.digest
    elif reference.pointer == BEST:
        return None
    elif reference.pointer is not None:
        query, values["pointer"] = _BY_POINTER, reference.pointer
    else:
        query = _NEWEST
    rows = query.rows(connection, **values)
    return (
        Meant(rows[0].id, ModelName(rows[0].namespace, rows[0].name), rows[0].number, rows[0].digest) if rows else None
    )


def meant(version: Version) -> Meant:
    """The same of a row."""
    return Meant(version.id, models.full_name(version.model), version.number, version.digest)


def find(session: Session, actor: Actor, name: ModelName, number: int, permission: Permission) -> Version:
    """The version in whatever state. Raises ModelNotFoundError, VersionNotFoundError or PermissionDeniedError."""
    actor.check(permission, name)
    version = session.scalar(_of(name).where(Version.number == number))
    if version is None:
        models.find(session, actor, name, permission)
        raise VersionNotFoundError(f"{name} has no version {number}.", model=str(name), number=number)
    return version


def live(version: Version) -> Version:
    """The same version if it is ready. Raises VersionTrashedError or VersionPurgedError."""
    if version.state == "trashed":
        raise VersionTrashedError(f"{name_of(version)} is in the trash.")
    if version.state == "purged":
        raise VersionPurgedError(f"{name_of(version)} was deleted for good.")
    return version


def page_of_versions(
    session: Session,
    model: Model,
    *,
    before: int | None,
    limit: int,
    kind: str | None = None,
    state: str | None = None,
) -> list[Version]:
    """Versions of a model, newest first, `limit + 1` at most."""
    query = select(Version).where(Version.model_id == model.id)
    if before is not None:
        query = query.where(Version.number < before)
    if kind is not None:
        query = query.where(Version.kind == kind)
    query = query.where(Version.state == (state or "ready"))
    found = list(session.scalars(query.order_by(Version.number.desc()).limit(limit + 1)))
    for version in found:
        version.model = model
    return found


def surroundings(session: Session, actor: Actor, versions: Sequence[Version]) -> Surroundings:
    """Newest metrics, parents and pointers of some versions: three queries, however many versions."""
    found = Surroundings()
    ids = [version.id for version in versions]
    if not ids:
        return found
    later = aliased(Metric)
    superseded = select(later.id).where(
        later.version_id == Metric.version_id,
        later.name == Metric.name,
        later.slice.is_(None),
        later.id > Metric.id,
    )
    newest = select(Metric).where(Metric.version_id.in_(ids), Metric.slice.is_(None), ~superseded.exists())
    for metric in session.scalars(newest.order_by(Metric.version_id, Metric.name)):
        found.metrics.setdefault(metric.version_id, {})[metric.name] = metric.value
    for edge, parent in parents_of(session, ids):
        name = models.full_name(parent.model) if parent else None
        visible = name is None or actor.may(Permission.VERSION_READ, name)
        number = parent.number if parent else None
        found.parents.setdefault(edge.child_id, []).append((edge, name if visible else None, number))
    by_number = {(version.model_id, version.number): version.id for version in versions}
    pointing = select(Pointer).where(
        Pointer.model_id.in_({version.model_id for version in versions}),
        Pointer.number.in_({version.number for version in versions}),
    )
    for pointer in session.scalars(pointing.order_by(Pointer.name)):
        owner = by_number.get((pointer.model_id, pointer.number or 0))
        if owner is not None:
            found.pointers.setdefault(owner, []).append(pointer)
    return found


def parents_of(session: Session, ids: Sequence[int]) -> list[tuple[LineageEdge, Version | None]]:
    """The edges of some children with their parents in this registry, if they are there."""
    query = (
        select(LineageEdge, Version)
        .outerjoin(Version, Version.id == LineageEdge.parent_id)
        .outerjoin(Version.model)
        .outerjoin(Model.namespace)
        .options(contains_eager(Version.model).contains_eager(Model.namespace))
        .where(LineageEdge.child_id.in_(ids))
        .order_by(LineageEdge.id)
    )
    return [(edge, version) for edge, version in session.execute(query)]


def artifacts_of(session: Session, version: Version) -> list[Artifact]:
    """The files of a version by path."""
    return list(session.scalars(select(Artifact).where(Artifact.version_id == version.id).order_by(Artifact.path)))


def tags_of(session: Session, version: Version) -> dict[str, str]:
    """The tags of a version."""
    rows = session.scalars(select(VersionTag).where(VersionTag.version_id == version.id).order_by(VersionTag.key))
    return {tag.key: tag.value for tag in rows}


def describe(session: Session, actor: Actor, version: Version, message: str, *, now: datetime) -> Version:
    """Change a version's description, the one thing of it that is prose."""
    if message == version.message:
        return version
    version.message = message
    _record(session, actor, Action.VERSION_UPDATE, version, {"message": message}, now=now)
    return version


def trash(session: Session, actor: Actor, version: Version, *, now: datetime) -> Version:
    """Put a version in the trash, from where it can be restored. Repeating it changes nothing.

    Raises VersionInUseError with the reasons, or VersionPurgedError.
    """
    models.lock(session, version.model)
    query = _whole().where(Version.id == version.id).with_for_update(of=Version)
    locked = session.scalars(query.execution_options(populate_existing=True)).one()
    if locked.state == "purged":
        live(locked)
    if locked.state == "trashed":
        return locked
    reasons = _uses(session, locked)
    if reasons:
        raise VersionInUseError(f"{name_of(locked)} is in use: {', '.join(reasons)}.", reasons=reasons)
    locked.state, locked.trashed_at, locked.trashed_by = "trashed", now, actor.name
    _record(session, actor, Action.VERSION_TRASH, locked, {}, now=now)
    return locked


def restore(session: Session, actor: Actor, version: Version, *, now: datetime) -> Version:
    """Take a version out of the trash. Raises VersionNotTrashedError or VersionPurgedError."""
    models.lock(session, version.model)
    session.refresh(version, ["state"])
    if version.state == "purged":
        live(version)
    if version.state == "ready":
        raise VersionNotTrashedError(f"{name_of(version)} is not in the trash.")
    version.state, version.trashed_at, version.trashed_by = "ready", None, None
    _record(session, actor, Action.VERSION_RESTORE, version, {}, now=now)
    return version


def latest(session: Session, model_ids: Sequence[int]) -> dict[int, int]:
    """For each model the number that its bare name means: the highest ready release that is an original."""
    query = (
        select(Version.model_id, func.max(Version.number))
        .where(Version.model_id.in_(model_ids), *_original_release())
        .group_by(Version.model_id)
    )
    return {row[0]: row[1] for row in session.execute(query)}


def _uses(session: Session, version: Version) -> list[str]:
    pointing = select(Pointer).where(Pointer.model_id == version.model_id, Pointer.number == version.number)
    reasons = [f"{pointer.kind} {pointer.name}" for pointer in session.scalars(pointing.order_by(Pointer.name))]
    if version.is_pinned:
        reasons.append("pinned")
    children = (
        _whole()
        .join(LineageEdge, LineageEdge.child_id == Version.id)
        .where(LineageEdge.parent_id == version.id, Version.state == "ready")
        .order_by(Version.id)
        .limit(10)
    )
    return reasons + [f"parent of {name_of(child)}" for child in session.scalars(children)]


def _query(session: Session, reference: Reference) -> Select[Version]:
    base = _of(reference.model)
    if reference.number is not None:
        return base.where(Version.number == reference.number)
    if reference.digest is not None:
        return (
            base.where(Version.digest == reference.digest, Version.state == "ready")
            .order_by(Version.number.desc()).limit(1)
        )  # fmt: skip
    if reference.pointer == BEST:
        return _best(session, base, reference.model)
    if reference.pointer is not None:
        return base.join(
            Pointer, and_(Pointer.model_id == Version.model_id, Pointer.number == Version.number)
        ).where(Pointer.name == reference.pointer)  # fmt: skip
    return base.where(*_original_release()).order_by(Version.number.desc()).limit(1)


def ranked(session: Session, model: Model, objective: models.Objective, *, limit: int) -> list[Version]:
    """The ready original releases that were measured by an objective, the best one first."""
    query = _ranking(_whole().where(Version.model_id == model.id), objective)
    return list(session.scalars(query.limit(limit)))


def _best(session: Session, base: Select[Version], name: ModelName) -> Select[Version]:
    model = session.scalar(
        select(Model)
        .join(Model.namespace)
        .where(Namespace.folded == fold(name.namespace), Model.folded == fold(name.name))
    )
    objective = models.objective_of(model) if model is not None else None
    return base.where(Version.number == 0) if objective is None else _ranking(base, objective).limit(1)


def _ranking(base: Select[Version], objective: models.Objective) -> Select[Version]:
    later = aliased(Metric)
    alike = [
        later.name == Metric.name,
        later.version_id == Metric.version_id,
        later.slice.is_(None),
        later.id > Metric.id,
    ]
    mine = [Metric.name == objective.metric, Metric.slice.is_(None)]
    for column, wanted in (("dataset", objective.dataset), ("split", objective.split)):
        if wanted is not None:
            mine.append(getattr(Metric, column) == wanted)
            alike.append(getattr(later, column) == wanted)
    order = Metric.value.desc() if objective.direction == "max" else Metric.value.asc()
    return (
        base.join(Metric, Metric.version_id == Version.id)
        .where(*mine, *_original_release(), ~select(later.id).where(*alike).exists())
        .order_by(order, Version.number.desc())
    )


def _original_release() -> tuple[ColumnElement[bool], ...]:
    return (Version.state == "ready", Version.kind == "release", Version.variant.is_(None))


class _Glanced(NamedTuple):
    id: int
    namespace: str
    name: str
    number: int
    digest: str


# What `glance` asks, built once: building a statement takes longer than sending it.
_READY = (
    select(Version.id, Namespace.name, Model.name, Version.number, Version.digest)
    .join(Model, Model.id == Version.model_id)
    .join(Namespace, Namespace.id == Model.namespace_id)
    .where(
        Namespace.folded == bindparam("namespace"),
        Model.folded == bindparam("model"),
        Model.deleted_at.is_(None),
        Version.state == "ready",
    )
)
_BY_NUMBER = Reading(_READY.where(Version.number == bindparam("number")), _Glanced)
_BY_DIGEST = Reading(
    _READY.where(Version.digest == bindparam("digest")).order_by(Version.number.desc()).limit(1), _Glanced
)  # fmt: skip
_BY_POINTER = Reading(
    _READY.join(
        Pointer, and_(Pointer.model_id == Version.model_id, Pointer.number == Version.number)
    ).where(Pointer.name == bindparam("pointer")),
    _Glanced,
)  # fmt: skip
_NEWEST = Reading(_READY.where(*_original_release()).order_by(Version.number.desc()).limit(1), _Glanced)


def _of(name: ModelName) -> Select[Version]:
    return _whole().where(
        Namespace.folded == fold(name.namespace), Model.folded == fold(name.name), Model.deleted_at.is_(None)
    )


def _whole() -> Select[Version]:
    """Versions with their model and namespace, which every version shown needs for its name."""
    return (
        select(Version)
        .join(Version.model)
        .join(Model.namespace)
        .options(contains_eager(Version.model).contains_eager(Model.namespace))
    )


def _missing(session: Session, actor: Actor, reference: Reference) -> NotFoundError:
    model = models.find(session, actor, reference.model, Permission.VERSION_READ)
    name = models.full_name(model)
    if reference.number is not None:
        return VersionNotFoundError(f"{name} has no version {reference.number}.", model=str(name))
    if reference.digest is not None:
        return VersionNotFoundError(f"{name} has no live version with that digest.", model=str(name))
    if reference.pointer == BEST:
        return NoObjectiveError(f"{name} has no best version: no objective, or no release measured by it.")
    if reference.pointer is not None:
        return PointerNotFoundError(f"{name} has nothing at {reference.pointer}.", model=str(name))
    return VersionNotFoundError(f"{name} has no published release.", model=str(name))


def _record(
    session: Session, actor: Actor, action: Action, version: Version, detail: dict[str, object], *, now: datetime
) -> None:
    namespace = version.model.namespace.name
    audit.record(session, actor, action, name_of(version), detail, chain=namespace, now=now)
