"""`/users`: who may have tokens. Administrators only."""

from http import HTTPStatus

from flask import Blueprint, Response

from registry import wire
from registry.api.operation import PAGED, operation
from registry.db.session import now
from registry.db.tables import User
from registry.domain.access import Permission
from registry.request import actor, answer, body, cursor, next_cursor, page, page_limit, requires, transaction
from registry.services import accounts

bp = Blueprint("users", __name__)


@bp.get("/users")
@requires(Permission.USER_MANAGE)
@operation("List users", answers={200: wire.Page[wire.UserOut]}, query=PAGED)
def index() -> Response:
    """One page by name."""
    limit, after = page_limit(), cursor(str)
    with transaction(read_only=True) as session:
        rows = accounts.page_of_users(session, actor(), after=after[0] if after else None, limit=limit)
        following = next_cursor(rows, limit, lambda row: (row.folded,))
        return page(wire.Page[wire.UserOut](items=[_rendered(row) for row in rows], next=following))


@bp.post("/users")
@requires(Permission.USER_MANAGE)
@operation("Create a user", body=wire.UserIn, answers={201: wire.UserOut})
def create() -> Response:
    """Without any role, unless it is an administrator; a token for it is made at `/tokens`."""
    asked = body(wire.UserIn)
    with transaction() as session:
        row = accounts.create_user(session, actor(), asked.name, is_admin=asked.admin, now=now(session))
        return answer(_rendered(row), HTTPStatus.CREATED)


@bp.patch("/users/<name>")
@requires(Permission.USER_MANAGE)
@operation(
    "Disable or enable a user, or change the administrator flag", body=wire.UserPatch, answers={200: wire.UserOut}
)
def update(name: str) -> Response:
    """Fields left out stay. The last enabled administrator stays one."""
    asked = body(wire.UserPatch)
    with transaction() as session:
        row = accounts.update_user(
            session, actor(), name, is_disabled=asked.disabled, is_admin=asked.admin, now=now(session)
        )
        return answer(_rendered(row))


def _rendered(row: User) -> wire.UserOut:
    return wire.UserOut(
        name=row.name, admin=row.is_admin, disabled=row.disabled_at is not None, created_at=row.created_at
    )
