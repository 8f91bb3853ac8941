"""Models: named lines of versions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, contains_eager

from registry.db.tables import Model, Namespace
from registry.domain.access import EVERYTHING, Permission, scope_allows
from registry.domain.audit import Action
from registry.domain.errors import ConflictError, GoneError
from registry.domain.names import ModelName, check_dataset_name, check_metric_name, check_split, fold
from registry.services import audit, namespaces
from registry.services.actors import Actor, ModelNotFoundError, PermissionDeniedError


class ModelExistsError(ConflictError):
    """The name, or a look-alike of it, is taken."""

    code = "MODEL_EXISTS"
    remedy = "Push to the existing model, or choose a name that differs in more than case and punctuation."


class ModelDeletedError(GoneError):
    """The model was deleted; its name is never used again."""

    code = "MODEL_DELETED"
    remedy = "Choose another name."


@dataclass(frozen=True, slots=True)
class Objective:
    """Which metric makes a version the best, on which data; `direction` is `max` or `min`."""

    metric: str
    direction: str
    dataset: str | None = None
    split: str | None = None


def full_name(model: Model) -> ModelName:
    """The canonical `namespace/name` of a row whose namespace is loaded."""
    return ModelName(model.namespace.name, model.name)


def stages_of(model: Model, configured: Sequence[str]) -> Sequence[str]:
    """The model's stages in the order a version climbs: its own, else its namespace's, else those of the server."""
    return model.stages or model.namespace.stages or configured


def find(session: Session, actor: Actor, name: ModelName, permission: Permission) -> Model:
    """The model by its name in any spelling, if the actor has the right.

    Raises ModelNotFoundError, PermissionDeniedError or ModelDeletedError.
    """
    actor.check(permission, name)
    model = session.scalar(_by_name(name))
    if model is None:
        raise ModelNotFoundError(f"There is no model {name}.", model=str(name))
    if model.deleted_at:
        raise ModelDeletedError(f"Model {name} was deleted.", model=str(name))
    return model


def lock(session: Session, model: Model) -> Model:
    """Hold the model's row until the transaction ends: numbers, pointers and trash of one model change in a row."""
    query = (
        select(Model)
        .join(Model.namespace)
        .options(contains_eager(Model.namespace))
        .where(Model.id == model.id)
        .with_for_update(of=Model)
        .execution_options(populate_existing=True)
    )
    return session.scalars(query).one()


def create(
    session: Session,
    actor: Actor,
    name: ModelName,
    *,
    now: datetime,
    description: str = "",
    objective: Objective | None = None,
) -> Model:
    """Create an empty model. Raises ModelExistsError, ModelDeletedError or NamespaceNotFoundError."""
    actor.check_namespace(Permission.MODEL_CREATE, name.namespace)
    actor.check(Permission.MODEL_CREATE, name)
    namespace = namespaces.find(session, actor, name.namespace)
    model = Model(
        namespace_id=namespace.id,
        name=name.name,
        folded=fold(name.name),
        description=description,
        created_by=actor.name,
        created_at=now,
    )
    set_objective(model, objective)
    try:
        with session.begin_nested():
            session.add(model)
    except IntegrityError:
        raise _taken(session, name) from None
    model.namespace = namespace
    audit.record(session, actor, Action.MODEL_CREATE, str(full_name(model)), chain=namespace.name, now=now)
    return model


def ensure(session: Session, actor: Actor, name: ModelName, *, now: datetime) -> Model:
    """The model, created if it is new. Raises ModelExistsError if only a look-alike exists."""
    existing = session.scalar(_by_name(name))
    if existing is None:
        try:
            return create(session, actor, name, now=now)
        except ModelExistsError:  # another push created it between the two statements
            existing = session.scalars(_by_name(name)).one()
    if existing.deleted_at:
        raise ModelDeletedError(f"Model {name} was deleted.", model=str(name))
    if full_name(existing) != name:
        raise _look_alike(existing, name)
    return existing


def update(
    session: Session, actor: Actor, model: Model, *, now: datetime, description: str | None, objective: Objective | None
) -> Model:
    """Change description or objective; None leaves them."""
    changed: dict[str, object] = {}
    if description is not None and description != model.description:
        model.description, changed["description"] = description, description
    if objective is not None:
        set_objective(model, objective)
        changed["objective"] = {"metric": objective.metric, "direction": objective.direction}
    if changed:
        name = full_name(model)
        audit.record(session, actor, Action.MODEL_UPDATE, str(name), changed, chain=name.namespace, now=now)
    return model


def objective_of(model: Model) -> Objective | None:
    """By what its versions are compared, if that was said."""
    if model.objective_metric is None or model.objective_direction is None:
        return None
    data = model.objective_dataset, model.objective_split
    return Objective(model.objective_metric, model.objective_direction, *data)


def set_objective(model: Model, objective: Objective | None) -> None:
    """Say which metric makes a version the best. Raises InvalidLabelError."""
    if objective is None:
        return
    model.objective_metric = check_metric_name(objective.metric)
    model.objective_direction = objective.direction
    model.objective_dataset = check_dataset_name(objective.dataset) if objective.dataset else None
    model.objective_split = check_split(objective.split) if objective.split else None


def page_of_models(
    session: Session, actor: Actor, *, namespace: str | None, after: tuple[str, str] | None, limit: int
) -> list[Model]:
    """Models the actor may read, ordered by folded namespace and name, `limit + 1` at most.

    Raises PermissionDeniedError if its token is not for reading models.
    """
    if not scope_allows(actor.scope, Permission.MODEL_READ, model=None):
        raise PermissionDeniedError(
            f"{actor.name} may not list models with this token.", permission=str(Permission.MODEL_READ)
        )
    query = (
        select(Model).join(Model.namespace).options(contains_eager(Model.namespace)).where(Model.deleted_at.is_(None))
    )
    query = _readable(query, actor)
    if namespace is not None:
        query = query.where(Namespace.folded == fold(namespace))
    if after is not None:
        query = query.where(tuple_(Namespace.folded, Model.folded) > after)
    query = query.order_by(Namespace.folded, Model.folded).limit(limit + 1)
    return list(session.scalars(query))


def _readable(query: Select[Model], actor: Actor) -> Select[Model]:
    if not actor.is_admin:
        query = query.where(Namespace.folded.in_(sorted(actor.roles)))
    if actor.scope.models == EVERYTHING:
        return query
    namespace, _, name = actor.scope.models.partition("/")
    return query.where(
        Namespace.folded.like(_like(fold(namespace)), escape="\\"), Model.folded.like(_like(fold(name)), escape="\\")
    )


def _like(glob: str) -> str:
    escaped = glob.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")


def _by_name(name: ModelName) -> Select[Model]:
    return (
        select(Model)
        .join(Model.namespace)
        .options(contains_eager(Model.namespace))
        .where(Namespace.folded == fold(name.namespace), Model.folded == fold(name.name))
    )


def _taken(session: Session, name: ModelName) -> ConflictError | GoneError:
    existing = session.scalars(_by_name(name)).one()
    if existing.deleted_at:
        return ModelDeletedError(f"Model {name} was deleted.", model=str(name))
    return _look_alike(existing, name)


def _look_alike(existing: Model, name: ModelName) -> ModelExistsError:
    taken = full_name(existing)
    if taken == name:
        return ModelExistsError(f"Model {name} exists already.", existing=str(taken))
    return ModelExistsError(f"{name} looks like the existing model {taken}.", existing=str(taken))
