"""RFC 9457 answers: the one writer of error JSON for `/api/v1`."""

import json
from http import HTTPStatus

from flask import Response, g
from werkzeug.exceptions import HTTPException

from registry.domain.errors import RegistryError, UnauthenticatedError
from registry.request import PROBLEM_JSON, remember, status_of

RETRY_AFTER_S = "2"

_HTTP_CODES = {
    400: ("BAD_REQUEST", "Send well-formed HTTP."),
    404: ("NOT_FOUND", "Check the URL against /docs."),
    405: ("METHOD_NOT_ALLOWED", "Use a method that the Allow header lists."),
    408: ("REQUEST_TIMEOUT", "Send the request again."),
    413: ("BODY_TOO_LARGE", "Send less at once; lists are sent in batches."),
    414: ("URI_TOO_LONG", "Send less in the URL."),
    415: ("UNSUPPORTED_MEDIA_TYPE", "Send application/json."),
    416: ("RANGE_NOT_SATISFIABLE", "Ask for a range inside the artifact."),
    431: ("HEADERS_TOO_LARGE", "Send fewer or shorter headers."),
}


_SAID = {
    400: "The request is not well-formed.",
    404: "There is nothing at this URL.",
    405: "What is at this URL does not take this method.",
    413: "The body is larger than this route takes.",
    416: "The range is outside the artifact.",
}
"""Our one sentence where Werkzeug would say several of its own."""


def decided(error: RegistryError) -> Response:
    """Render a refusal that is itself a record: inside the transaction that commits it, for a retry to get the same."""
    response = problem(error)
    remember(HTTPStatus(response.status_code), response.get_data(as_text=True))
    return response


def problem(error: RegistryError) -> Response:
    """Render one of our errors."""
    status = status_of(error)
    response = _document(status, error.code, str(error), error.remedy, error.details)
    if isinstance(error, UnauthenticatedError):
        response.headers["WWW-Authenticate"] = 'Bearer realm="weight-registry"'
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        response.headers["Retry-After"] = RETRY_AFTER_S
    return response


def http_problem(error: HTTPException) -> Response:
    """Render what Flask itself refuses: an unknown route, a wrong method, a body over the limit."""
    status = HTTPStatus(error.code or 500)
    code, remedy = _HTTP_CODES.get(status, ("BAD_REQUEST", ""))
    said = error.description if error.description != type(error).description else None
    response = _document(status, code, said or _SAID.get(status, f"{status.phrase}."), remedy, {})
    for name, value in error.get_headers():
        if name.lower() in ("allow", "content-range", "retry-after"):
            response.headers[name] = value
    return response


def internal_problem() -> Response:
    """Render the unexpected without its internals; the log has them under the request's id."""
    return _document(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "INTERNAL_ERROR",
        "The server met an error it did not expect.",
        "Tell the operator the request_id; the server's log has the details.",
        {},
    )


def _document(status: HTTPStatus, code: str, detail: str, remedy: str, details: dict[str, object]) -> Response:
    document = details | {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "code": code,
        "remedy": remedy,
        "request_id": g.get("request_id", ""),
    }
    return Response(json.dumps(document, default=str), status, mimetype=PROBLEM_JSON)
