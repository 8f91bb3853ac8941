"""`/events`: the audit chains, oldest event first."""

from flask import Blueprint, Response, request

from registry import wire
from registry.api.operation import PAGED, Parameter, operation
from registry.domain.access import Permission
from registry.domain.names import DEFAULT_NAMESPACE, SYSTEM_CHAIN
from registry.request import actor, cursor, next_cursor, page, page_limit, requires, transaction
from registry.services import audit, namespaces

bp = Blueprint("events", __name__)


@bp.get("/events")
@requires(Permission.EVENT_READ)
@operation(
    "Read a chain of events",
    answers={200: wire.Page[wire.EventOut]},
    query=(
        *PAGED,
        Parameter(
            "namespace",
            f"Whose chain; `{SYSTEM_CHAIN}` is that of users, tokens and namespaces, for administrators.",
            {"type": "string", "default": DEFAULT_NAMESPACE},
        ),
    ),
    refuses=(404,),
)
def index() -> Response:
    """One page. Each event's hash covers the one before, so that a change of what was written shows."""
    name, limit, after = request.args.get("namespace", DEFAULT_NAMESPACE), page_limit(), cursor(int)
    with transaction(read_only=True) as session:
        if name == SYSTEM_CHAIN:
            actor().check_administrator(Permission.EVENT_READ)
            chain = SYSTEM_CHAIN
        else:
            actor().check_namespace(Permission.EVENT_READ, name)
            chain = namespaces.find(session, actor(), name).name
        rows = audit.page_of_events(session, chain, after=after[0] if after else 0, limit=limit + 1)
        following = next_cursor(rows, limit, lambda row: (row.seq,))
        items = [wire.EventOut.model_validate(row) for row in rows]
        return page(wire.Page[wire.EventOut](items=items, next=following))
