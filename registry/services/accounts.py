"""Users and their tokens, and how the first administrator comes to be."""

import secrets
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, contains_eager

from registry.config import InvalidSettingError
from registry.db.tables import Namespace, Token, User
from registry.domain.access import FULL_SCOPE, Permission, Scope, format_scope, scope_allows, scope_within
from registry.domain.audit import Action
from registry.domain.errors import ConflictError, NotFoundError
from registry.domain.names import (
    DEFAULT_NAMESPACE,
    SYSTEM_CHAIN,
    ReservedNameError,
    check_label,
    check_user_name,
    fold,
    is_label,
    shown,
)
from registry.domain.tokens import (
    RANDOM_BYTES,
    MalformedTokenError,
    check_token_format,
    new_token,
    token_digest,
    token_prefix,
)
from registry.services import audit, namespaces
from registry.services.actors import SYSTEM, Actor, PermissionDeniedError

BOOTSTRAP_USER = "admin"
BOOTSTRAP_TOKEN = "bootstrap"  # noqa: S105 - the name of a token
MIN_ADMIN_TOKEN = 20
"""Characters that a secret chosen by the operator must have."""

_LARGEST_ID = 2**63 - 1


class UserExistsError(ConflictError):
    """The user's name, or a look-alike of it, is taken."""

    code = "USER_EXISTS"
    remedy = "Use the existing user, or choose a name that differs in more than case and punctuation."


class UserNotFoundError(NotFoundError):
    """There is no user of that name."""

    code = "USER_NOT_FOUND"
    remedy = "Check the name with 'registry user list', or have an administrator create the user."


class LastAdministratorError(ConflictError):
    """The last enabled administrator can be neither disabled nor made an ordinary user."""

    code = "LAST_ADMINISTRATOR"
    remedy = "Make another user an administrator first."


class TokenNotFoundError(NotFoundError):
    """There is no such token, or it was revoked, or it is not the actor's."""

    code = "TOKEN_NOT_FOUND"
    remedy = "See which tokens there are with 'registry token list'."


# Users


def find_user(session: Session, name: str) -> User:
    """The user by name in any spelling. Raises UserNotFoundError."""
    user = session.scalar(select(User).where(User.folded == fold(name))) if is_label(name) else None
    if user is None:
        raise UserNotFoundError(f"There is no user {shown(name)}.", user=name)
    return user


def create_user(session: Session, actor: Actor, name: str, *, now: datetime, is_admin: bool = False) -> User:
    """Create a user; administrators only. Raises UserExistsError, InvalidUserNameError or PermissionDeniedError."""
    actor.check_administrator(Permission.USER_MANAGE)
    user = User(name=check_user_name(name), folded=fold(name), is_admin=is_admin, created_at=now)
    try:
        with session.begin_nested():
            session.add(user)
    except IntegrityError:
        taken = find_user(session, name)
        raise UserExistsError(f"User {name} is taken by {taken.name}.", existing=taken.name) from None
    audit.record(session, actor, Action.USER_CREATE, user.name, {"admin": is_admin}, chain=SYSTEM_CHAIN, now=now)
    return user


def update_user(
    session: Session,
    actor: Actor,
    name: str,
    *,
    now: datetime,
    is_disabled: bool | None = None,
    is_admin: bool | None = None,
) -> User:
    """Disable or enable a user, make it an administrator or an ordinary user; None leaves things as they are.

    A disabled user's tokens and sessions stop working at once. Raises UserNotFoundError or LastAdministratorError.
    """
    actor.check_administrator(Permission.USER_MANAGE)
    # All administrators' rows are held, so that two of them cannot put out each other at the same time.
    enabled = set(session.scalars(_enabled_administrators()))
    user = session.scalars(_held(select(User).where(User.id == find_user(session, name).id))).one()
    if (is_disabled or is_admin is False) and enabled == {user}:
        raise LastAdministratorError(f"{user.name} is the last administrator.", user=user.name)
    if is_admin is not None and is_admin != user.is_admin:
        user.is_admin = is_admin
        action = Action.NAMESPACE_GRANT if is_admin else Action.NAMESPACE_REVOKE  # a role in every namespace
        facts = {"user": user.name, "role": "administrator"}
        audit.record(session, actor, action, user.name, facts, chain=SYSTEM_CHAIN, now=now)
    if is_disabled is not None and is_disabled != (user.disabled_at is not None):
        user.disabled_at = now if is_disabled else None
        action = Action.USER_DISABLE if is_disabled else Action.USER_ENABLE
        audit.record(session, actor, action, user.name, chain=SYSTEM_CHAIN, now=now)
    return user


def page_of_users(session: Session, actor: Actor, *, after: str | None, limit: int) -> list[User]:
    """Users by folded name, `limit + 1` at most; administrators only. Raises PermissionDeniedError."""
    actor.check_administrator(Permission.USER_MANAGE)
    query = select(User).order_by(User.folded).limit(limit + 1)
    if after is not None:
        query = query.where(User.folded > after)
    return list(session.scalars(query))


# Tokens


def create_token(
    session: Session,
    actor: Actor,
    name: str,
    *,
    scope: Scope,
    now: datetime,
    user: str | None = None,
    expires_in_days: int | None = None,
) -> tuple[Token, str]:
    """Create a token, the actor's own or, by an administrator, another user's. Gives its row and its secret.

    The secret is known to nobody afterwards. Raises PermissionDeniedError if the scope goes beyond the actor's own,
    UserNotFoundError, InvalidLabelError or ReservedNameError.
    """
    owner = _owner(session, actor, user)
    if not scope_within(scope, actor.scope):
        raise PermissionDeniedError(
            f"{actor.name} may not create a token that may do more than the one in use.",
            remedy="Ask for a narrower scope, or use a token that has this one.",
            permission=str(Permission.TOKEN_MANAGE),
        )
    if check_label(name, "token") == BOOTSTRAP_TOKEN:
        raise ReservedNameError(f"{name!r} is reserved and cannot name a token.", name=name)
    secret = new_token(secrets.token_bytes(RANDOM_BYTES))
    expires_at = None if expires_in_days is None else now + timedelta(days=expires_in_days)
    return _add_token(session, actor, owner, name, secret, scope=scope, now=now, expires_at=expires_at), secret


def page_of_tokens(
    session: Session, actor: Actor, *, user: str | None = None, after: int | None, limit: int
) -> list[Token]:
    """A user's tokens that were not revoked, oldest first, `limit + 1` at most; the actor's own if none is named.

    Raises PermissionDeniedError or UserNotFoundError.
    """
    owner = _owner(session, actor, user)
    query = _tokens().where(Token.user_id == owner.id, Token.id > (after or 0)).order_by(Token.id).limit(limit + 1)
    return list(session.scalars(query))


def revoke_token(session: Session, actor: Actor, token_id: int, *, now: datetime) -> Token:
    """End a token, also the one in use. Raises TokenNotFoundError or PermissionDeniedError."""
    _check_manages(actor)
    query = _tokens().where(Token.id == token_id).with_for_update(of=Token)
    token = session.scalar(query) if token_id <= _LARGEST_ID else None
    if token is None or not (actor.is_admin or token.user_id == actor.user_id):
        raise TokenNotFoundError(f"There is no token {token_id}.", token=token_id)
    return _revoke(session, actor, token, now=now)


# The first administrator


def bootstrap(session: Session, secret: str, *, now: datetime) -> None:
    """See that `default` exists and, if there is a secret, that it is a token of the administrator `admin`.

    Safe to repeat and to run in several processes at once. Another secret revokes the one before. What people decided
    stays: a disabled `admin` is not enabled again. Raises InvalidSettingError for a secret that cannot serve.
    """
    if secret and len(secret) < MIN_ADMIN_TOKEN:
        raise InvalidSettingError(f"REGISTRY_ADMIN_TOKEN must have at least {MIN_ADMIN_TOKEN} characters.")
    if session.scalar(select(Namespace.id).where(Namespace.folded == fold(DEFAULT_NAMESPACE))) is None:
        with suppress(namespaces.NamespaceExistsError):  # another process was faster
            namespaces.create(session, SYSTEM, DEFAULT_NAMESPACE, now=now)
    if not secret:
        return
    user = _administrator(session, now=now)
    token = _bootstrap_token(session, user, secret, now=now)
    earlier = _tokens().where(Token.user_id == user.id, Token.name == BOOTSTRAP_TOKEN, Token.id != token.id)
    for other in session.scalars(earlier.with_for_update(of=Token)):
        _revoke(session, SYSTEM, other, now=now)


def _administrator(session: Session, *, now: datetime) -> User:
    with suppress(UserNotFoundError):
        return find_user(session, BOOTSTRAP_USER)
    try:
        return create_user(session, SYSTEM, BOOTSTRAP_USER, now=now, is_admin=True)
    except UserExistsError:  # another process was faster
        return find_user(session, BOOTSTRAP_USER)


def _bootstrap_token(session: Session, user: User, secret: str, *, now: datetime) -> Token:
    query = select(Token).where(Token.sha256 == token_digest(secret))
    token = session.scalar(query)
    if token is None:
        try:
            return _add_token(session, SYSTEM, user, BOOTSTRAP_TOKEN, secret, scope=FULL_SCOPE, now=now)
        except IntegrityError:  # another process was faster
            token = session.scalars(query).one()
    if token.user_id != user.id or token.name != BOOTSTRAP_TOKEN:
        raise InvalidSettingError("REGISTRY_ADMIN_TOKEN is a token that was created for something else.")
    if token.revoked_at is not None:  # the operator went back to an earlier secret
        token.revoked_at = None
        _record(session, SYSTEM, Action.TOKEN_CREATE, user, token, now=now)
    return token


def _add_token(
    session: Session,
    actor: Actor,
    owner: User,
    name: str,
    secret: str,
    *,
    scope: Scope,
    now: datetime,
    expires_at: datetime | None = None,
) -> Token:
    token = Token(
        user=owner,
        name=name,
        prefix=_prefix(secret),
        sha256=token_digest(secret),
        actions=list(scope.actions),
        models=scope.models,
        created_at=now,
        expires_at=expires_at,
    )
    with session.begin_nested():
        session.add(token)
    _record(session, actor, Action.TOKEN_CREATE, owner, token, now=now)
    return token


def _prefix(secret: str) -> str:
    """The first characters of a secret of ours; of one that a person chose they would be too much of it."""
    try:
        return token_prefix(check_token_format(secret))
    except MalformedTokenError:
        return ""


def _revoke(session: Session, actor: Actor, token: Token, *, now: datetime) -> Token:
    token.revoked_at = now
    _record(session, actor, Action.TOKEN_REVOKE, token.user, token, now=now)
    return token


def _record(session: Session, actor: Actor, action: Action, owner: User, token: Token, *, now: datetime) -> None:
    facts = {"token": token.id, "name": token.name, **format_scope(Scope(tuple(token.actions), token.models))}
    audit.record(session, actor, action, owner.name, facts, chain=SYSTEM_CHAIN, now=now)


def _owner(session: Session, actor: Actor, user: str | None) -> User:
    """Whose tokens are meant: the actor's own, or by an administrator anyone's."""
    _check_manages(actor)
    if user is None or fold(user) == fold(actor.name):
        return find_user(session, actor.name)
    actor.check_administrator(Permission.TOKEN_MANAGE)
    return find_user(session, user)


def _check_manages(actor: Actor) -> None:
    if not scope_allows(actor.scope, Permission.TOKEN_MANAGE, model=None):
        raise PermissionDeniedError(
            f"{actor.name} may not manage tokens with this token.", permission=str(Permission.TOKEN_MANAGE)
        )


def _tokens() -> Select[Token]:
    return select(Token).join(Token.user).options(contains_eager(Token.user)).where(Token.revoked_at.is_(None))


def _enabled_administrators() -> Select[User]:
    return _held(select(User).where(User.is_admin, User.disabled_at.is_(None)).order_by(User.id))


def _held(query: Select[User]) -> Select[User]:
    return query.with_for_update(key_share=True).execution_options(populate_existing=True)
