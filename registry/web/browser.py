"""The browser that asks: its cookie, whether one of our own pages sent its form, and where it may be sent next."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

from flask import Response, g, request, url_for

from registry.domain.access import Permission
from registry.domain.errors import ForbiddenError, UnauthenticatedError
from registry.request import authenticated, config
from registry.services import sessions
from registry.services.sessions import NotSignedInError, SignedIn
from registry.web.pages import came_from, go

View = TypeVar("View", bound=Callable[..., Any])

HOME: Final = "/"
_COOKIE: Final = "weight_registry_session"
_OWN: Final = ("same-origin", "none")  # `none`: the person did it, not a page


class ForeignFormError(ForbiddenError):
    """The form was sent by a page of another site."""

    code = "FOREIGN_FORM"
    remedy = "Open the registry's own page and repeat it there."


def signed_in(permission: Permission) -> Callable[[View], View]:
    """Mark a page with its permission; whoever is not signed in is sent to sign in and comes back.

    If the URL names a model the right is checked there, as `request.requires` does for a token.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(**arguments: Any) -> Any:
            try:
                g.actor = authenticated(lambda connection: sessions.find(connection, _secret(), now=datetime.now(UTC)))
            except UnauthenticatedError:
                return forget(go(url_for("web.signing_in.show", next=_asked())))
            if "model" in arguments:
                g.actor.check(permission, arguments["model"])
            return view(**arguments)

        guarded.permission = permission  # type: ignore[attr-defined]
        return cast("View", guarded)

    return decorate


def _asked() -> str | None:
    """The page to come back to: what was asked for, or where the form was that was sent. None is the first page."""
    if request.method == "POST":
        return came_from()
    asked = request.full_path if request.query_string else request.path
    return asked if asked != HOME else None


def check_own_form() -> None:
    """Refuse a form that another site's page sent. Raises ForeignFormError.

    A browser names the page a form came from in headers that no page can forge, and it sends our cookie with another
    site's form never (SameSite=Lax). So forms need no secret of their own. `Sec-Fetch-Site` is sent over HTTPS and on
    the local machine; `Origin` always. What sends neither is no browser, and carries nobody's cookie by accident.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    is_from_here = origin is None or urlsplit(origin).netloc == request.host
    if not (is_from_here if site is None else site in _OWN):
        raise ForeignFormError("The form was sent by a page of another site.")


def local(target: str) -> str:
    """The address of a page of ours to go to, else the first page: a link to here must not lead elsewhere.

    Browsers read a backslash as a slash and skip control characters, so an address with either is not taken.
    """
    is_path = target.startswith("/") and not target.startswith("//")
    return target if is_path and target.isprintable() and "\\" not in target else HOME


def held_secret() -> str | None:
    """The secret in the browser's cookie."""
    return request.cookies.get(_name())


def remember(response: Response, begun: SignedIn) -> Response:
    """Hand the browser its cookie, out of reach of scripts and of other sites' forms."""
    response.set_cookie(
        _name(),
        begun.secret,
        expires=begun.expires_at,
        path="/",
        secure=config().secure_cookies,
        httponly=True,
        samesite="Lax",
    )
    return response


def forget(response: Response) -> Response:
    """Take the cookie back, if there is one."""
    if held_secret() is not None:
        response.delete_cookie(_name(), path="/", secure=config().secure_cookies, httponly=True, samesite="Lax")
    return response


def _secret() -> str:
    secret = held_secret()
    if not secret:
        raise NotSignedInError("Nobody is signed in.")
    return secret


def _name() -> str:
    """Browsers take a cookie named `__Host-…` only over HTTPS, from this very host and for all of it."""
    return f"__Host-{_COOKIE}" if config().secure_cookies else _COOKIE
