"""Who is asking: the user behind a token, what the token may do, and the user's roles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.orm import Session

from registry.db.reading import Reading
from registry.db.tables import Grant, Namespace, Token, User
from registry.domain.access import Permission, Role, Scope, allows, scope_allows
from registry.domain.errors import ForbiddenError, NotFoundError, UnauthenticatedError
from registry.domain.names import ModelName, fold, shown
from registry.domain.tokens import token_digest

_USE_RECORDED_EVERY = timedelta(minutes=10)


class _Found(NamedTuple):
    """A token with its user and one of the user's roles."""

    id: int
    name: str
    actions: list[str]
    models: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    user_id: int
    user_name: str
    is_admin: bool
    disabled_at: datetime | None
    namespace: str | None
    role: str | None


_FIND = (
    select(
        Token.id,
        Token.name,
        Token.actions,
        Token.models,
        Token.expires_at,
        Token.revoked_at,
        Token.last_used_at,
        User.id,
        User.name,
        User.is_admin,
        User.disabled_at,
        Namespace.folded,
        Grant.role,
    )
    .select_from(Token)
    .join(User, User.id == Token.user_id)
    .outerjoin(Grant, Grant.user_id == User.id)
    .outerjoin(Namespace, Namespace.id == Grant.namespace_id)
)
# One of them runs before every request.
_BY_SECRET = Reading(_FIND.where(Token.sha256 == bindparam("sha256")), _Found)
_BY_ID = Reading(_FIND.where(Token.id == bindparam("id")), _Found)


class UnknownTokenError(UnauthenticatedError):
    """The token is none that this registry issued, or it was revoked, or its user was disabled."""

    code = "UNKNOWN_TOKEN"
    remedy = "Run 'registry login URL' with a valid token, or ask an administrator for one."


class ExpiredTokenError(UnauthenticatedError):
    """The token's time is over."""

    code = "EXPIRED_TOKEN"
    remedy = "Create a new token with 'registry token create' and log in again."


class MissingTokenError(UnauthenticatedError):
    """The request names no actor."""

    code = "TOKEN_REQUIRED"
    remedy = "Send 'Authorization: Bearer TOKEN', or run 'registry login URL'."


class PermissionDeniedError(ForbiddenError):
    """The actor may see the thing but not do this to it."""

    code = "PERMISSION_DENIED"
    remedy = "Ask an admin of the namespace for the role, or use a token whose scope allows it."


class ModelNotFoundError(NotFoundError):
    """There is no such model, or none that the actor may read."""

    code = "MODEL_NOT_FOUND"
    remedy = "Check the name with 'registry list', or ask for the reader role in its namespace."


class NamespaceNotFoundError(NotFoundError):
    """There is no such namespace, or none that the actor may read."""

    code = "NAMESPACE_NOT_FOUND"
    remedy = "Check the name with 'registry namespace list'; an admin creates one with 'registry namespace create'."


@dataclass(frozen=True, slots=True)
class Actor:
    """The user or token that acts. `roles` maps a folded namespace to the user's role there."""

    user_id: int
    name: str
    is_admin: bool = False
    token_id: int = 0
    token_name: str = ""
    scope: Scope = field(default_factory=Scope)
    roles: Mapping[str, Role] = field(default_factory=dict)
    expires_at: datetime | None = None
    is_use_due: bool = False
    """Whether the token's last use was long enough ago to be noted again."""

    def role_in(self, namespace: str) -> Role | None:
        """The role in a namespace, given in any spelling; an administrator is admin everywhere."""
        return Role.ADMIN if self.is_admin else self.roles.get(fold(namespace))

    def may(self, permission: Permission, model: ModelName) -> bool:
        """Whether role and token scope both allow it on this model."""
        role = self.role_in(model.namespace)
        return role is not None and allows(role, permission) and scope_allows(self.scope, permission, model=model)

    def check(self, permission: Permission, model: ModelName) -> None:
        """Raises ModelNotFoundError if the actor may not read the model, else PermissionDeniedError if not this."""
        if self.may(permission, model):
            return
        if not self.may(Permission.MODEL_READ, model):
            raise ModelNotFoundError(f"There is no model {model}.", model=str(model))
        raise PermissionDeniedError(f"{self.name} may not {permission} on {model}.", permission=str(permission))

    def may_in(self, permission: Permission, namespace: str) -> bool:
        """Whether role and scope allow it in the namespace as a whole."""
        role = self.role_in(namespace)
        return role is not None and allows(role, permission) and scope_allows(self.scope, permission, model=None)

    def check_namespace(self, permission: Permission, namespace: str) -> None:
        """As `check`, for what concerns the namespace as a whole."""
        if self.may_in(permission, namespace):
            return
        if self.role_in(namespace) is None:
            raise NamespaceNotFoundError(f"There is no namespace {shown(namespace)}.", namespace=namespace)
        raise PermissionDeniedError(f"{self.name} may not {permission} in {namespace}.", permission=str(permission))

    def check_administrator(self, permission: Permission) -> None:
        """Raises PermissionDeniedError unless the actor is an administrator whose token covers it."""
        if not (self.is_admin and scope_allows(self.scope, permission, model=None)):
            raise PermissionDeniedError(f"{self.name} may not {permission}.", permission=str(permission))


SYSTEM = Actor(user_id=0, name="system", is_admin=True)
"""What acts when the registry itself does: the worker and the bootstrap."""


def authenticate(connection: Connection, secret: str) -> Actor:
    """The actor a bearer secret stands for.

    Raises UnknownTokenError or ExpiredTokenError. One indexed query: it runs before every request.
    """
    return _actor(_BY_SECRET.rows(connection, sha256=token_digest(secret)))


def of_token(connection: Connection, token_id: int) -> Actor:
    """The actor of a token that a signed-in browser stands for. Raises like `authenticate`."""
    return _actor(_BY_ID.rows(connection, id=token_id))


def record_use(session: Session, actor: Actor, *, now: datetime) -> None:
    """Note that the token was used."""
    session.execute(update(Token).where(Token.id == actor.token_id).values(last_used_at=now))


def _actor(rows: Sequence[_Found]) -> Actor:
    if not rows or rows[0].revoked_at or rows[0].disabled_at:
        raise UnknownTokenError("The token is not valid.")
    first, now = rows[0], datetime.now(UTC)
    if first.expires_at and first.expires_at <= now:
        raise ExpiredTokenError("The token has expired.")
    return Actor(
        user_id=first.user_id,
        name=first.user_name,
        is_admin=first.is_admin,
        token_id=first.id,
        token_name=first.name,
        scope=Scope(tuple(first.actions), first.models),
        roles=_roles(rows),
        expires_at=first.expires_at,
        is_use_due=first.last_used_at is None or first.last_used_at < now - _USE_RECORDED_EVERY,
    )


def _roles(rows: Sequence[_Found]) -> dict[str, Role]:
    return {row.namespace: Role(row.role) for row in rows if row.namespace and row.role}
