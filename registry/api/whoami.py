"""`/whoami`: the actor behind the token in use."""

from flask import Blueprint, Response

from registry import wire
from registry.api.operation import operation
from registry.domain.access import Permission
from registry.request import actor, answer, requires

bp = Blueprint("whoami", __name__)


@bp.get("/whoami")
@requires(Permission.TOKEN_MANAGE)
@operation("Say who you are", answers={200: wire.WhoAmI})
def show() -> Response:
    """Answered to every valid token, whatever its scope: it tells nothing but what the token is."""
    asking = actor()
    return answer(
        wire.WhoAmI(
            user=asking.name,
            admin=asking.is_admin,
            token=asking.token_name,
            actions=list(asking.scope.actions),
            models=asking.scope.models,
            expires_at=asking.expires_at,
        )
    )
