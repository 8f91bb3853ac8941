"""`…/versions/{number}/lineage`: what a version was made from, and what was made from it."""

from flask import Blueprint, Response

from registry import wire
from registry.api.operation import PAGED, Parameter, operation
from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import (
    InvalidCursorError,
    actor,
    choice_parameter,
    cursor,
    next_cursor,
    number_parameter,
    page,
    page_limit,
    requires,
    transaction,
)
from registry.services import lineage, versions

bp = Blueprint("lineage", __name__)

_DEEPEST = 20


@bp.get("/models/<model:model>/versions/<int:number>/lineage")
@requires(Permission.LINEAGE_READ)
@operation(
    "Walk a version's lineage",
    answers={200: wire.Page[wire.LineageItem]},
    query=(
        *PAGED,
        Parameter(
            "direction",
            "`up` to what it was made from, `down` to what was made from it.",
            {"type": "string", "enum": ["up", "down"], "default": "up"},
        ),
        Parameter(
            "depth",
            "How many edges away to look.",
            {"type": "integer", "minimum": 1, "maximum": _DEEPEST, "default": _DEEPEST},
        ),
    ),
)
def index(model: ModelName, number: int) -> Response:
    """One page of edges, the nearest first. Names of versions you may not read are null."""
    limit, after = page_limit(), cursor(int, int)
    if after is not None and not 0 < after[0] <= _DEEPEST:
        raise InvalidCursorError("The cursor is not valid.")
    down = choice_parameter("direction", "up", "down", default="up") == "down"
    depth = number_parameter("depth", _DEEPEST, low=1, high=_DEEPEST)
    with transaction(read_only=True) as session:
        version = versions.find(session, actor(), model, number, Permission.LINEAGE_READ)
        steps = lineage.walk(session, actor(), version, down=down, depth=depth, after=after, limit=limit)
        following = next_cursor(steps, limit, lambda step: (step.depth, step.id))
        items = [wire.LineageItem.model_validate(step) for step in steps]
        return page(wire.Page[wire.LineageItem](items=items, next=following))
