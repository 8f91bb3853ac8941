"""How a page is rendered, also the page that says what went wrong, and the headers every page carries."""

from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import urlencode, urlsplit

from flask import Response, g, redirect, render_template, request
from werkzeug.exceptions import HTTPException

from registry.domain.errors import RegistryError, UnavailableError
from registry.request import status_of
from registry.web import formatting

POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
"""There is no script, so none may run; a page is framed by nobody and sends forms only to us."""

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    # Not no-referrer: a browser would then send `Origin: null` with our own forms, as it does with a stranger's.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}

_KEPT: Final = (
    "class",
    "kind",
    "limit",
    "namespace",
    "scope",
    "state",
)  # what a link to another page of a list carries on


def render(template: str, status: HTTPStatus = HTTPStatus.OK, /, **context: Any) -> Response:
    """Render a page. Call it inside the transaction: what a template shows is read by then, and no more."""
    text = render_template(template, actor=g.get("actor"), text=formatting, page_link=page_link, **context)
    return Response(text, status, mimetype="text/html")


def go(target: str) -> Response:
    """Send the browser to another page of ours, to ask for it with GET."""
    return cast("Response", redirect(target, HTTPStatus.SEE_OTHER, Response))


def came_from() -> str | None:
    """The page of ours whose form was sent; None if the browser does not say, or it was none of ours."""
    if request.method != "POST" or request.referrer is None:
        return None
    parts = urlsplit(request.referrer)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return path if parts.netloc == request.host and path.startswith("/") and not path.startswith("//") else None


def page_link(cursor: str | None) -> str:
    """This page's address at another cursor; None is its beginning."""
    kept = {name: value for name, value in request.args.items() if name in _KEPT}
    query = urlencode(kept | ({"cursor": cursor} if cursor else {}))
    return f"{request.path}?{query}" if query else request.path


def secured(response: Response) -> Response:
    """Add the headers to whatever a browser would render; nothing a view said itself is changed."""
    if response.mimetype == "text/html":
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
    return response


def error_page(error: RegistryError) -> Response:
    """The page of one of our errors: what, and what to do."""
    status = status_of(error)
    response = _problem(status, str(error), error.remedy, code=error.code)
    if isinstance(error, UnavailableError):
        response.headers["Retry-After"] = "2"
    return response


def http_error_page(error: HTTPException) -> Response:
    """The page of what Flask itself refuses: an unknown address, a wrong method, a form over the limit."""
    status = HTTPStatus(error.code or 500)
    message = "There is no such page." if status == HTTPStatus.NOT_FOUND else f"{status.description or status.phrase}."
    response = _problem(status, message, "")
    for name, value in error.get_headers():
        if name.lower() in ("allow", "retry-after"):
            response.headers[name] = value
    return response


def unexpected_page() -> Response:
    """The page of the unexpected, without its internals; the log has them under the request's id."""
    return _problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The server met an error it did not expect.",
        "Tell the operator the request id below; the server's log has the details.",
    )


def _problem(status: HTTPStatus, message: str, remedy: str, *, code: str = "") -> Response:
    request_id = g.get("request_id", "")
    return render(
        "problem.html",
        status,
        message=message,
        remedy=remedy,
        code=code,
        status=status,
        request_id=request_id,
        back=came_from(),
    )
