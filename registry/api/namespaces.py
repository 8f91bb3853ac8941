"""`/namespaces`: who owns models and stored bytes, and which users have which role there."""

from http import HTTPStatus

from flask import Blueprint, Response

from registry import wire
from registry.api.operation import PAGED, operation
from registry.db.session import now
from registry.db.tables import Namespace
from registry.domain.access import Permission, Role
from registry.request import actor, answer, body, cursor, next_cursor, page, page_limit, requires, transaction
from registry.services import grants, namespaces
from registry.services.actors import Actor

bp = Blueprint("namespaces", __name__)


@bp.get("/namespaces")
@requires(Permission.NAMESPACE_READ)
@operation("List the namespaces you have a role in", answers={200: wire.Page[wire.NamespaceOut]}, query=PAGED)
def index() -> Response:
    """One page by name; an administrator sees all."""
    limit, after = page_limit(), cursor(str)
    with transaction(read_only=True) as session:
        rows = namespaces.page_of_namespaces(session, actor(), after=after[0] if after else None, limit=limit)
        following = next_cursor(rows, limit, lambda row: (row.folded,))
        items = [_rendered(actor(), row) for row in rows]
        return page(wire.Page[wire.NamespaceOut](items=items, next=following))


@bp.post("/namespaces")
@requires(Permission.NAMESPACE_CREATE)
@operation("Create a namespace", body=wire.NamespaceIn, answers={201: wire.NamespaceOut})
def create() -> Response:
    """Administrators only; their first push into a new namespace does this too."""
    asked = body(wire.NamespaceIn)
    with transaction() as session:
        row = namespaces.create(session, actor(), asked.name, description=asked.description, now=now(session))
        return answer(_rendered(actor(), row), HTTPStatus.CREATED)


@bp.get("/namespaces/<part:namespace>")
@requires(Permission.NAMESPACE_READ)
@operation("Show a namespace", answers={200: wire.NamespaceOut})
def show(namespace: str) -> Response:
    """A namespace and your role in it."""
    with transaction(read_only=True) as session:
        return answer(_rendered(actor(), namespaces.find(session, actor(), namespace)))


@bp.get("/namespaces/<part:namespace>/grants")
@requires(Permission.NAMESPACE_GRANT)
@operation("List who has which role in a namespace", answers={200: wire.Page[wire.GrantOut]}, query=PAGED)
def index_grants(namespace: str) -> Response:
    """One page by user."""
    limit, after = page_limit(), cursor(str)
    with transaction(read_only=True) as session:
        rows = grants.page_of_grants(session, actor(), namespace, after=after[0] if after else None, limit=limit)
        following = next_cursor(rows, limit, lambda row: (row[0].folded,))
        items = [_rendered_grant(user.name, role) for user, role in rows]
        return page(wire.Page[wire.GrantOut](items=items, next=following))


@bp.put("/namespaces/<part:namespace>/grants/<user>")
@requires(Permission.NAMESPACE_GRANT)
@operation("Give a user a role in a namespace", body=wire.GrantIn, answers={200: wire.GrantOut})
def put_grant(namespace: str, user: str) -> Response:
    """In place of the role the user had."""
    role = Role(body(wire.GrantIn).role)
    with transaction() as session:
        owner = grants.put(session, actor(), namespace, user, role=role, now=now(session))
        return answer(_rendered_grant(owner.name, role))


@bp.delete("/namespaces/<part:namespace>/grants/<user>")
@requires(Permission.NAMESPACE_GRANT)
@operation("Take a user's role in a namespace away", answers={200: wire.GrantOut})
def delete_grant(namespace: str, user: str) -> Response:
    """Answers what the role was."""
    with transaction() as session:
        owner, role = grants.revoke(session, actor(), namespace, user, now=now(session))
        return answer(_rendered_grant(owner.name, role))


def _rendered(asking: Actor, row: Namespace) -> wire.NamespaceOut:
    role = asking.role_in(row.name)
    return wire.NamespaceOut.model_validate({
        "name": row.name,
        "description": row.description,
        "created_at": row.created_at,
        "role": role and role.value,
    })  # fmt: skip


def _rendered_grant(user: str, role: Role) -> wire.GrantOut:
    return wire.GrantOut.model_validate({"user": user, "role": role.value})
