"""What a view may ask of the current request: its transaction, its actor, its body, its page, and how to answer.

A view reads: parse, `with transaction() as session:` call the use case and render. Answers are rendered inside the
transaction, so that the answer to an `Idempotency-Key` is committed together with what it reports.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlencode

import structlog
from flask import Response, current_app, g, request
from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session as Session  # noqa: PLC0414 - views name the type of what `transaction` gives
from werkzeug.exceptions import UnsupportedMediaType

from registry.config import Config
from registry.db.session import Database, DatabaseFullError, now
from registry.db.tables import IdempotencyKey
from registry.domain import errors
from registry.domain.access import Permission
from registry.services import actors
from registry.services.actors import Actor
from registry.storage.s3 import Store

Shape = TypeVar("Shape", bound=BaseModel)
View = TypeVar("View", bound=Callable[..., Any])

BODY_LIMIT: Final = 1024 * 1024
"""Bytes of JSON a request may carry, unless its view allows more."""

PAGE_DEFAULT: Final = 50
PAGE_LIMIT: Final = 1_000

PROBLEM_JSON: Final = "application/problem+json"
STATUS: Final[dict[type[errors.RegistryError], HTTPStatus]] = {
    errors.InvalidError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    errors.ForbiddenError: HTTPStatus.FORBIDDEN,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.ConflictError: HTTPStatus.CONFLICT,
    errors.GoneError: HTTPStatus.GONE,
    errors.PreconditionError: HTTPStatus.PRECONDITION_FAILED,
    errors.TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.ExhaustedError: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}


def status_of(error: errors.RegistryError) -> HTTPStatus:
    """The status of an error's kind; a kind that only a client raises has none."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    raise TypeError(f"{type(error).__name__} has no HTTP status")


class InvalidBodyError(errors.InvalidError):
    """The request's body is not the JSON document this route takes."""

    code = "INVALID_BODY"
    remedy = "Compare the body with the route's schema at /docs."


class InvalidParameterError(errors.InvalidError):
    """A query parameter or header has a value this route does not take."""

    code = "INVALID_PARAMETER"
    remedy = "Compare the query with the route's parameters at /docs."


class InvalidCursorError(errors.InvalidError):
    """The cursor is not one that this list handed out."""

    code = "INVALID_CURSOR"
    remedy = "Start again without a cursor and follow `next`."


class IdempotencyKeyReusedError(errors.InvalidError):
    """The Idempotency-Key was used before with another request."""

    code = "IDEMPOTENCY_KEY_REUSED"
    remedy = "Use a fresh key for each request that is not a retry."


@dataclass(frozen=True, slots=True)
class Parts:
    """What the application was built from; one for each process."""

    config: Config
    database: Database
    store: Store


class Replay(BaseException):
    """A retry of a request that was answered: leave the view and answer the same."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def parts() -> Parts:
    """The application's parts."""
    return cast("Parts", current_app.extensions["registry"])


def config() -> Config:
    """The server's settings."""
    return parts().config


def store() -> Store:
    """The object store."""
    return parts().store


def requires(permission: Permission) -> Callable[[View], View]:
    """Mark a view with its permission and refuse a request without it.

    If the URL names a model or a namespace the right is checked there; otherwise the view names the thing, after
    parsing, and checks it with `actor().check…` itself.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(**arguments: Any) -> Any:
            g.actor = _of_bearer()
            if "model" in arguments:
                g.actor.check(permission, arguments["model"])
            elif "namespace" in arguments:
                g.actor.check_namespace(permission, arguments["namespace"])
            g.idempotency_key = _idempotency_key()
            try:
                return view(**arguments)
            except Replay as replay:
                return replay.response

        guarded.permission = permission  # type: ignore[attr-defined]
        return cast("View", guarded)

    return decorate


def public(view: View) -> View:
    """Mark a view as open to everyone."""
    view.permission = "public"  # type: ignore[attr-defined]
    return view


def actor() -> Actor:
    """Who is asking."""
    return cast("Actor", g.actor)


def authenticated(find: Callable[[Connection], Actor]) -> Actor:
    """The actor that `find` reads, noting that the token was used. Raises what `find` raises."""
    database = parts().database
    with database.autocommit() as connection:
        found = find(connection)
    if found.is_use_due:
        _record_use(database, found)
    return found


def _of_bearer() -> Actor:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise actors.MissingTokenError("The request carries no token.")
    return authenticated(lambda connection: actors.authenticate(connection, secret.strip()))


def _record_use(database: Database, found: Actor) -> None:
    """When a token was last used is worth knowing, but not worth failing a read on a full disk."""
    try:
        with database.transaction() as session:
            actors.record_use(session, found, now=now(session))
    except (DatabaseFullError, errors.UnavailableError) as error:
        structlog.get_logger().warning("token use not recorded", code=error.code)


def body(shape: type[Shape]) -> Shape:
    """The request's JSON body. Raises UnsupportedMediaType, or InvalidBodyError naming the fields that are wrong."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("The body must be JSON, sent as application/json.")
    try:
        return shape.model_validate_json(request.get_data())
    except ValidationError as error:
        fields = [
            {"field": ".".join(str(part) for part in problem["loc"]), "problem": problem["msg"]}
            for problem in error.errors(include_input=False, include_url=False, include_context=False)[:20]
        ]
        first = fields[0]
        where = f" at {first['field']}" if first["field"] else ""
        raise InvalidBodyError(f"The body is not valid{where}: {first['problem']}.", fields=fields) from None


def number_parameter(name: str, default: int, *, low: int, high: int) -> int:
    """A whole number from the query. Raises InvalidParameterError."""
    raw = request.args.get(name)
    if raw is None:
        return default
    if not raw.isascii() or not raw.isdigit() or len(raw) > 19 or not low <= int(raw) <= high:
        raise InvalidParameterError(f"{name} must be a whole number from {low} to {high}.")
    return int(raw)


def choice_parameter(name: str, *choices: str, default: str | None = None) -> str | None:
    """One of a few words from the query. Raises InvalidParameterError."""
    raw = request.args.get(name)
    if raw is None:
        return default
    if raw not in choices:
        raise InvalidParameterError(f"{name} must be one of {', '.join(choices)}.")
    return raw


def page_limit() -> int:
    """How many items the page may hold."""
    return number_parameter("limit", PAGE_DEFAULT, low=1, high=PAGE_LIMIT)


def cursor(*kinds: type) -> tuple[Any, ...] | None:
    """The key of the last item seen, of these types. Raises InvalidCursorError."""
    raw = request.args.get("cursor")
    if not raw:
        return None
    try:
        found = json.loads(base64.b64decode(raw.encode("ascii"), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or [type(part) for part in found] != list(kinds):
        raise InvalidCursorError("The cursor is not valid.")
    if any(isinstance(part, int) and abs(part) >= 2**63 for part in found):
        raise InvalidCursorError("The cursor is not valid.")
    if any(isinstance(part, str) and ("\0" in part or not part.isprintable()) for part in found):
        raise InvalidCursorError("The cursor is not valid.")
    return tuple(found)


def next_cursor(items: list[Any], limit: int, key: Callable[[Any], tuple[Any, ...]]) -> str | None:
    """The cursor behind `items`, if there may be more: ask for `limit + 1` rows and cut."""
    if len(items) <= limit:
        return None
    del items[limit:]
    return base64.urlsafe_b64encode(json.dumps(key(items[-1])).encode()).decode()


def reading() -> AbstractContextManager[Connection]:
    """A connection for one reading statement, which needs no transaction around it."""
    return parts().database.autocommit()


@contextmanager
def transaction(*, read_only: bool = False, remember: bool = True) -> Iterator[Session]:
    """The request's transaction. A retry with a known Idempotency-Key leaves the view here with the old answer.

    `remember=False` is for a view's earlier transactions, when only its last one gives the answer.
    """
    key = "" if read_only or not remember else g.get("idempotency_key", "")
    with parts().database.transaction(read_only=read_only) as session:
        g.session, g.remembered = session, _claimed(session, key) if key else None
        yield session
        if g.remembered is not None and not g.remembered.status:
            session.delete(g.remembered)  # the view gave no answer to remember


def _idempotency_key() -> str:
    """The request's key, empty if it has none or needs none. Raises InvalidParameterError."""
    key = request.headers.get("Idempotency-Key")
    if key is None or request.method in ("GET", "HEAD"):
        return ""
    if not 1 <= len(key) <= 250 or not key.isascii() or not key.isprintable():
        raise InvalidParameterError("Idempotency-Key must be 1 to 250 printable ASCII characters.")
    return key


def _claimed(session: Session, key: str) -> IdempotencyKey:
    """The row for this request's answer. Whoever sends the same key meanwhile waits here until it is committed.

    Raises Replay if it was given before, or IdempotencyKeyReusedError.
    """
    asked = hashlib.sha256(f"{request.method} {request.full_path}\n".encode() + request.get_data()).hexdigest()
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    claim = dialect.insert(IdempotencyKey).values(
        user_id=actor().user_id, key=key, request_sha256=asked, status=0, body="", created_at=now(session)
    )
    inserted = session.scalar(claim.on_conflict_do_nothing().returning(IdempotencyKey.key))
    known = session.get_one(IdempotencyKey, (actor().user_id, key))
    if inserted is not None:
        return known
    if known.request_sha256 != asked:
        raise IdempotencyKeyReusedError("The Idempotency-Key was used before with another request.")
    mimetype = PROBLEM_JSON if known.status >= HTTPStatus.BAD_REQUEST else "application/json"
    replay = Response(known.body, known.status, mimetype=mimetype)
    replay.headers["Idempotency-Replayed"] = "true"
    raise Replay(replay)


def remember(status: HTTPStatus, text: str) -> None:
    """Inside a transaction with an Idempotency-Key: store the answer with it, so that a retry gets the same."""
    remembered = g.get("remembered")
    if remembered is not None:
        remembered.status, remembered.body = int(status), text


def answer(shape: BaseModel, status: HTTPStatus = HTTPStatus.OK, *, etag: str | None = None) -> Response:
    """Render a shape. Inside a transaction with an Idempotency-Key the answer is stored with it."""
    text = shape.model_dump_json()
    remember(status, text)
    response = Response(text, status, mimetype="application/json")
    if request.method in ("GET", "HEAD") and status == HTTPStatus.OK:
        response.headers["Cache-Control"] = "private, no-cache"
        response.set_etag(etag or hashlib.sha256(text.encode()).hexdigest()[:32])
        response.make_conditional(request)
    return response


def page(shape: BaseModel) -> Response:
    """Render a page of a list, with a `Link` header to the next one."""
    response = answer(shape)
    following = getattr(shape, "next", None)
    if following:
        query = request.args.to_dict() | {"cursor": following}
        response.headers["Link"] = f'<{request.base_url}?{urlencode(query)}>; rel="next"'
    return response
