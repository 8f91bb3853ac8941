"""`/tokens`: the bearer secrets of users. A secret is shown once, by the request that creates it."""

from http import HTTPStatus

from flask import Blueprint, Response, request

from registry import wire
from registry.api.operation import PAGED, Parameter, operation
from registry.db.session import now
from registry.db.tables import Token
from registry.domain.access import Permission, parse_scope
from registry.request import actor, answer, body, cursor, next_cursor, page, page_limit, requires, transaction
from registry.services import accounts

bp = Blueprint("tokens", __name__)


@bp.get("/tokens")
@requires(Permission.TOKEN_MANAGE)
@operation(
    "List your tokens",
    answers={200: wire.Page[wire.TokenOut]},
    query=(*PAGED, Parameter("user", "Another user's instead; administrators only.")),
    refuses=(404,),
)
def index() -> Response:
    """One page, oldest first, of those that were not revoked."""
    limit, after = page_limit(), cursor(int)
    with transaction(read_only=True) as session:
        rows = accounts.page_of_tokens(
            session, actor(), user=request.args.get("user"), after=after[0] if after else None, limit=limit
        )
        following = next_cursor(rows, limit, lambda row: (row.id,))
        return page(wire.Page[wire.TokenOut](items=[_rendered(row) for row in rows], next=following))


@bp.post("/tokens")
@requires(Permission.TOKEN_MANAGE)
@operation("Create a token", body=wire.TokenIn, answers={201: wire.NewTokenOut}, refuses=(404,))
def create() -> Response:
    """For yourself or, as an administrator, for another user; it may do no more than the token in use.

    Secrets are not stored: a repetition under the same Idempotency-Key shows the token with an empty secret.
    """
    asked = body(wire.TokenIn)
    scope = parse_scope({"actions": asked.actions, "models": asked.models})
    with transaction() as session:
        row, secret = accounts.create_token(
            session,
            actor(),
            asked.name,
            scope=scope,
            user=asked.user,
            expires_in_days=asked.expires_in_days,
            now=now(session),
        )
        shape = wire.NewTokenOut(**_rendered(row).model_dump(), token="")
        response = answer(shape, HTTPStatus.CREATED)  # what a retry is told, and what is stored for it
    response.set_data(shape.model_copy(update={"token": secret}).model_dump_json())
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.delete("/tokens/<int:number>")
@requires(Permission.TOKEN_MANAGE)
@operation("Revoke a token", answers={200: wire.TokenOut})
def delete(number: int) -> Response:
    """Yours, also the one in use; an administrator anyone's. It stops working at once."""
    with transaction() as session:
        return answer(_rendered(accounts.revoke_token(session, actor(), number, now=now(session))))


def _rendered(row: Token) -> wire.TokenOut:
    return wire.TokenOut(
        id=row.id,
        name=row.name,
        user=row.user.name,
        prefix=row.prefix,
        actions=row.actions,
        models=row.models,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )
