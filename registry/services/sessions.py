"""Sessions: a browser that signed in with a token. Its cookie stands for that token and ends with it, or after 12 h."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select
from sqlalchemy.orm import Session

from registry.db.tables import WebSession
from registry.domain.errors import UnauthenticatedError
from registry.services import actors
from registry.services.actors import Actor

LIFETIME = timedelta(hours=12)
_SECRET_BYTES = 32


class NotSignedInError(UnauthenticatedError):
    """The browser's session is over, or there never was one."""

    code = "NOT_SIGNED_IN"
    remedy = "Sign in with a token."


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session just begun. `secret` goes into the cookie and is stored nowhere."""

    actor: Actor
    secret: str
    expires_at: datetime


def sign_in(session: Session, token: str, *, now: datetime) -> SignedIn:
    """Begin a session of the token's actor. Raises UnknownTokenError or ExpiredTokenError."""
    actor = actors.authenticate(session.connection(), token)
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    expires_at = now + LIFETIME if actor.expires_at is None else min(now + LIFETIME, actor.expires_at)
    session.execute(delete(WebSession).where(WebSession.expires_at <= now))
    session.add(WebSession(sha256=_digest(secret), token_id=actor.token_id, created_at=now, expires_at=expires_at))
    session.flush()
    return SignedIn(actor, secret, expires_at)


def find(connection: Connection, secret: str, *, now: datetime) -> Actor:
    """The actor of a cookie. Raises NotSignedInError, or UnknownTokenError or ExpiredTokenError if its token ended."""
    token_id = connection.scalar(
        select(WebSession.token_id).where(WebSession.sha256 == _digest(secret), WebSession.expires_at > now)
    )
    if token_id is None:
        raise NotSignedInError("The session is over.")
    return actors.of_token(connection, token_id)


def sign_out(session: Session, secret: str) -> None:
    """End a session, if there is one."""
    session.execute(delete(WebSession).where(WebSession.sha256 == _digest(secret)))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
