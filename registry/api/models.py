"""`/models`: the named lines of versions."""

from http import HTTPStatus

from flask import Blueprint, Response, request

from registry import wire
from registry.api import shapes
from registry.api.operation import PAGED, Parameter, operation
from registry.db.session import now
from registry.db.tables import Model
from registry.domain.access import Permission
from registry.domain.names import ModelName, check_namespace, parse_model
from registry.request import (
    Session,
    actor,
    answer,
    body,
    config,
    cursor,
    next_cursor,
    page,
    page_limit,
    requires,
    transaction,
)
from registry.services import automation, models, pointers, tags, versions

bp = Blueprint("models", __name__)


@bp.get("/models")
@requires(Permission.MODEL_READ)
@operation(
    "List the models you may read",
    answers={200: wire.Page[wire.ModelOut]},
    query=(*PAGED, Parameter("namespace", "Only models of this namespace.")),
)
def index() -> Response:
    """One page by namespace and name."""
    limit, after, namespace = page_limit(), cursor(str, str), request.args.get("namespace")
    if namespace is not None:
        check_namespace(namespace)
    with transaction(read_only=True) as session:
        rows = models.page_of_models(session, actor(), namespace=namespace, after=after, limit=limit)
        following = next_cursor(rows, limit, lambda row: (row.namespace.folded, row.folded))
        return page(wire.Page[wire.ModelOut](items=_rendered(session, rows), next=following))


@bp.post("/models")
@requires(Permission.MODEL_CREATE)
@operation("Create a model", body=wire.ModelIn, answers={201: wire.ModelOut}, refuses=(404, 410))
def create() -> Response:
    """An empty model; pushing to a new name does this too."""
    asked = body(wire.ModelIn)
    with transaction() as session:
        row = models.create(
            session,
            actor(),
            parse_model(asked.name),
            now=now(session),
            description=asked.description,
            objective=_objective(asked.objective),
        )
        return answer(_rendered(session, [row])[0], HTTPStatus.CREATED)


@bp.get("/models/<model:model>")
@requires(Permission.MODEL_READ)
@operation("Show a model", answers={200: wire.ModelOut})
def show(model: ModelName) -> Response:
    """A model and who holds its stages."""
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.MODEL_READ)
        return answer(_rendered(session, [row])[0])


@bp.patch("/models/<model:model>")
@requires(Permission.MODEL_UPDATE)
@operation("Change a model's description or objective", body=wire.ModelPatch, answers={200: wire.ModelOut})
def update(model: ModelName) -> Response:
    """Fields left out stay."""
    asked = body(wire.ModelPatch)
    with transaction() as session:
        row = models.find(session, actor(), model, Permission.MODEL_UPDATE)
        models.update(
            session,
            actor(),
            row,
            now=now(session),
            description=asked.description,
            objective=_objective(asked.objective),
        )
        if asked.objective is not None:
            automation.objective_changed(session, row)
        return answer(_rendered(session, [row])[0])


def _objective(asked: wire.Objective | None) -> models.Objective | None:
    return models.Objective(**asked.model_dump()) if asked else None


def _rendered(session: Session, rows: list[Model]) -> list[wire.ModelOut]:
    ids = [row.id for row in rows]
    held, latest, tagged = pointers.stages_of(session, ids), versions.latest(session, ids), tags.of_models(session, ids)
    return [
        shapes.model(
            row,
            stages=models.stages_of(row, config().stages),
            pointers=held.get(row.id, []),
            latest=latest.get(row.id),
            tags=tagged.get(row.id, {}),
        )
        for row in rows
    ]
