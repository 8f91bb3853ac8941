"""`/models/{name}/aliases`: movable names of versions."""

from http import HTTPStatus

from flask import Blueprint, Response

from registry import wire
from registry.api.operation import PAGED, operation
from registry.db.session import now
from registry.db.tables import Pointer
from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import actor, answer, body, config, cursor, next_cursor, page, page_limit, requires, transaction
from registry.services import models, pointers

bp = Blueprint("aliases", __name__)


@bp.get("/models/<model:model>/aliases")
@requires(Permission.ALIAS_READ)
@operation("List a model's aliases", answers={200: wire.Page[wire.AliasOut]}, query=PAGED)
def index(model: ModelName) -> Response:
    """One page by name."""
    limit, after = page_limit(), cursor(str)
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.ALIAS_READ)
        rows = pointers.page_of_aliases(session, row, after=after[0] if after else None, limit=limit)
        following = next_cursor(rows, limit, lambda pointer: (pointer.name,))
        return page(wire.Page[wire.AliasOut](items=[_shape(pointer) for pointer in rows], next=following))


@bp.get("/models/<model:model>/aliases/<alias>")
@requires(Permission.ALIAS_READ)
@operation("Show an alias", answers={200: wire.AliasOut})
def show(model: ModelName, alias: str) -> Response:
    """Which version it means, and since when."""
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.ALIAS_READ)
        return answer(_shape(pointers.find_alias(session, row, alias)))


@bp.put("/models/<model:model>/aliases/<alias>")
@requires(Permission.ALIAS_POINT)
@operation("Point an alias at a version", body=wire.AliasIn, answers={200: wire.AliasOut}, refuses=(410,))
def point(model: ModelName, alias: str) -> Response:
    """Create or move it."""
    asked = body(wire.AliasIn)
    with transaction() as session:
        row = models.find(session, actor(), model, Permission.ALIAS_POINT)
        pointer = pointers.point(session, actor(), row, alias, asked.number, stages=config().stages, now=now(session))
        return answer(_shape(pointer))


@bp.delete("/models/<model:model>/aliases/<alias>")
@requires(Permission.ALIAS_REMOVE)
@operation("Remove an alias", answers={204: None})
def remove(model: ModelName, alias: str) -> Response:
    """The version it meant stays."""
    with transaction() as session:
        row = models.find(session, actor(), model, Permission.ALIAS_REMOVE)
        pointers.remove(session, actor(), row, alias, now=now(session))
        return Response(status=HTTPStatus.NO_CONTENT)


def _shape(pointer: Pointer) -> wire.AliasOut:
    return wire.AliasOut.model_validate({
        "alias": pointer.name,
        "number": pointer.number,
        "seq": pointer.seq,
        "by": pointer.moved_by,
        "at": pointer.moved_at,
    })  # fmt: skip
