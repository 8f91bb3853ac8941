"""`/events`: the audit chains, oldest event first: by page, by waiting for more, or as a stream."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Final, cast

from flask import Blueprint, Response, current_app, request

from registry import wire
from registry.api.operation import EVENT_STREAM, PAGED, Parameter, operation
from registry.db.session import Database
from registry.domain.access import Permission
from registry.domain.audit import GENESIS, Head
from registry.domain.errors import RegistryError, UnavailableError
from registry.domain.names import DEFAULT_NAMESPACE, SYSTEM_CHAIN
from registry.request import (
    InvalidParameterError,
    actor,
    answer,
    cursor,
    next_cursor,
    number_parameter,
    page,
    page_limit,
    parts,
    requires,
    transaction,
)
from registry.services import chains, namespaces
from registry.services.chains import Heads

bp = Blueprint("events", __name__)

LONGEST_WAIT_S = 30
_STREAM_S: Final = 60.0
"""A stream ends after a minute and is resumed: what its token may see is checked again, and another gets its turn."""
_KEEP_ALIVE_S: Final = 10.0
_AT_ONCE: Final = 500
_CHECKED_A_REQUEST: Final = 10_000
_MAX_SEQ: Final = 2**62
_HEX = re.compile(r"[0-9a-f]{64}")

_WAITING: Final = 4
_waiting = BoundedSemaphore(_WAITING)

_NAMESPACE = Parameter(
    "namespace",
    f"Whose chain; `{SYSTEM_CHAIN}` is that of users, tokens and namespaces, for administrators.",
    {"type": "string", "default": DEFAULT_NAMESPACE},
)
_AFTER = Parameter(
    "after",
    "Only events with a seq above this.",
    {"type": "integer", "minimum": 0, "maximum": _MAX_SEQ, "default": 0},
)


class FeedBusyError(UnavailableError):
    """As many wait for events at this process as may; more would leave no thread for other requests."""

    code = "FEED_BUSY"
    remedy = "Repeat the request after the seconds in Retry-After, or ask without waiting."


@bp.get("/events")
@requires(Permission.EVENT_READ)
@operation(
    "Read a chain of events",
    answers={200: wire.Page[wire.EventOut]},
    query=(
        *PAGED,
        _NAMESPACE,
        _AFTER,
        Parameter("action", "Only these, such as `promotion:apply` or `promotion:*`."),
        Parameter(
            "wait",
            "Seconds to wait for an event if there is none yet.",
            {"type": "integer", "minimum": 0, "maximum": LONGEST_WAIT_S, "default": 0},
        ),
    ),
    headers=(Parameter("Last-Event-ID", "Of a stream: resume after this seq.", place="header"),),
    refuses=(404,),
    streams=True,
)
def index() -> Response:
    """One page. Each event's hash covers the one before, so that a change of what was written shows.

    A chain has no gaps: whoever has seen seq 7 asks for what is `after` 7. With `Accept: text/event-stream` events come
    as they happen (`id` is the seq, `event` the action). The stream ends after a minute; `Last-Event-ID` resumes it.
    """
    chain, limit, action = _chain(), page_limit(), request.args.get("action")
    if action is not None:
        chains.check_pattern(action)
    wait = number_parameter("wait", 0, low=0, high=30)
    if _wants_stream():
        return _stream(chain, _resumed(), action)
    after, until = _after(), time.monotonic() + min(wait, LONGEST_WAIT_S)
    rows, seen = _read(parts().database, chain, after, action=action, limit=limit + 1)
    if wait and not rows:
        with _turn():
            while not rows and _heads().wait(chain, after=seen, until=until):
                rows, seen = _read(parts().database, chain, seen, action=action, limit=limit + 1)
    following = next_cursor(rows, limit, lambda row: (row.seq,))
    return page(wire.Page[wire.EventOut](items=rows, next=following))


@bp.get("/events/head")
@requires(Permission.EVENT_READ)
@operation("Show where a chain ends", answers={200: wire.ChainHead}, query=(_NAMESPACE,), refuses=(404,))
def head() -> Response:
    """Kept elsewhere, it shows later that nothing was cut off: an event with this seq and hash must then be there."""
    chain = _chain()
    with transaction(read_only=True) as session:
        found = chains.head(session, chain)
        return answer(wire.ChainHead(chain=found.chain, seq=found.seq, hash=found.hash))


@bp.get("/events/verify")
@requires(Permission.EVENT_READ)
@operation(
    "Verify a chain",
    answers={200: wire.ChainChecked},
    query=(
        _NAMESPACE,
        _AFTER,
        Parameter("hash", "The hash of event `after`.", {"type": "string", "pattern": "^[0-9a-f]{64}$"}),
    ),
    refuses=(404,),
)
def verify() -> Response:
    """Some thousand events a request: go on with `after` and `hash` as answered until it is `complete`."""
    chain, after, known = _chain(), _number("after"), request.args.get("hash", GENESIS)
    if not _HEX.fullmatch(known):
        raise InvalidParameterError("hash must be 64 hexadecimal digits.")
    with transaction(read_only=True) as session:
        found = chains.check(session, Head(chain, after, known), limit=_CHECKED_A_REQUEST)
        shape = wire.ChainChecked(
            chain=chain,
            seq=found.upto.seq,
            hash=found.upto.hash,
            broken_at=found.broken_at,
            complete=found.is_end or found.broken_at is not None,
        )
        return answer(shape)


def _chain() -> str:
    """The chain that is asked for, if the actor may read it."""
    name = request.args.get("namespace", DEFAULT_NAMESPACE)
    if name == SYSTEM_CHAIN:
        actor().check_administrator(Permission.EVENT_READ)
        return SYSTEM_CHAIN
    actor().check_namespace(Permission.EVENT_READ, name)
    with transaction(read_only=True) as session:
        return namespaces.find(session, actor(), name).name


def _after() -> int:
    before = cursor(int)
    return before[0] if before else _number("after")


def _resumed() -> int:
    text = request.headers.get("Last-Event-ID", "")
    return min(int(text), _MAX_SEQ) if text.isascii() and text.isdigit() and len(text) < 20 else _after()


def _number(name: str) -> int:
    return number_parameter(name, 0, low=0, high=_MAX_SEQ)


def _wants_stream() -> bool:
    return request.method == "GET" and request.accept_mimetypes.best_match(["application/json", EVENT_STREAM]) == (
        EVENT_STREAM
    )


def _heads() -> Heads:
    return cast("Heads", current_app.extensions["registry.heads"])


def _read(
    database: Database, chain: str, after: int, *, action: str | None, limit: int
) -> tuple[list[wire.EventOut], int]:
    """Events above `after`, and up to where it is now known what there is."""
    with database.transaction(read_only=True) as session:
        end = chains.head(session, chain).seq  # first: what comes meanwhile is read now or by the next one
        found = chains.page_of_events(session, chain, after=after, limit=limit, action=action)
        rows = [wire.EventOut.model_validate(row) for row in found]
    seen = [rows[-1].seq] if rows else []
    return rows, max(seen if len(rows) == limit else [after, end, *seen])


@contextmanager
def _turn() -> Iterator[None]:
    _take_turn()
    try:
        yield
    finally:
        _waiting.release()


def _take_turn() -> None:
    if not _waiting.acquire(blocking=False):
        raise FeedBusyError(f"At this process {_WAITING} wait for events already.")


def _stream(chain: str, after: int, action: str | None) -> Response:
    _take_turn()
    response = Response(_Stream(_blocks(parts().database, _heads(), chain, after, action)), mimetype=EVENT_STREAM)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # a proxy that collects an answer would never see the end of this one
    return response


class _Stream(Iterator[bytes]):
    """The blocks, and a turn that is given back once, whether the stream ends, fails, is left or never began."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._has_turn = True

    def __next__(self) -> bytes:
        try:
            return next(self._blocks)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """The server calls it when the client has gone."""
        if self._has_turn:
            self._has_turn = False
            _waiting.release()


def _blocks(database: Database, heads: Heads, chain: str, after: int, action: str | None) -> Iterator[bytes]:
    yield b"retry: 1000\n\n"
    end = time.monotonic() + _STREAM_S
    said_at, said, seen = time.monotonic(), after, after
    try:
        while time.monotonic() < end and not heads.is_over:
            rows: list[wire.EventOut] = []
            if heads.wait(chain, after=seen, until=min(end, said_at + _KEEP_ALIVE_S)):
                rows, seen = _read(database, chain, seen, action=action, limit=_AT_ONCE)
            if rows:
                yield "".join(map(_block, rows)).encode()
            elif time.monotonic() >= said_at + _KEEP_ALIVE_S:
                yield f"id: {seen}\n\n".encode() if seen > said else b":\n\n"
            else:
                continue
            said_at, said = time.monotonic(), rows[-1].seq if rows else seen
    except RegistryError:
        return  # the database is away; who reads this comes again and is told so


def _block(row: wire.EventOut) -> str:
    return f"id: {row.seq}\nevent: {row.action}\ndata: {row.model_dump_json()}\n\n"
