"""`…/artifacts`: the files of a version, for clients that read segments from the store and for plain HTTP."""

from collections.abc import Generator, Iterator
from http import HTTPStatus

import structlog
from flask import Blueprint, Response, redirect, request
from werkzeug.datastructures import Range
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.http import parse_range_header
from werkzeug.wrappers import Response as BaseResponse

from registry import wire
from registry.api import shapes
from registry.api.operation import PAGED, RANGE, Parameter, operation
from registry.db.tables import Artifact
from registry.domain.access import Permission
from registry.domain.digest import format_digest
from registry.domain.errors import RegistryError
from registry.domain.names import ModelName
from registry.request import (
    InvalidParameterError,
    Session,
    actor,
    choice_parameter,
    config,
    cursor,
    next_cursor,
    page,
    page_limit,
    requires,
    store,
    transaction,
)
from registry.services import artifacts, versions, whole_objects

log = structlog.get_logger()

bp = Blueprint("artifacts", __name__)

_ARTIFACT = Parameter("artifact", "Path of the artifact.", required=True)


@bp.get("/models/<model:model>/versions/<int:number>/artifacts")
@requires(Permission.VERSION_READ)
@operation("List a version's files", answers={200: wire.Page[wire.ArtifactOut]}, query=PAGED)
def index(model: ModelName, number: int) -> Response:
    """One page by path."""
    limit, after = page_limit(), cursor(str)
    with transaction(read_only=True) as session:
        version = versions.find(session, actor(), model, number, Permission.VERSION_READ)
        rows = artifacts.page_of_artifacts(session, version, after=after[0] if after else None, limit=limit)
        following = next_cursor(rows, limit, lambda row: (row.path,))
        return page(wire.Page[wire.ArtifactOut](items=[shapes.artifact(row) for row in rows], next=following))


@bp.get("/models/<model:model>/versions/<int:number>/segments")
@requires(Permission.VERSION_READ)
@operation(
    "List an artifact's segments",
    answers={200: wire.Page[wire.SegmentOut]},
    query=(*PAGED, _ARTIFACT, Parameter("urls", "1 to sign a URL for each.", {"type": "string", "enum": ["0", "1"]})),
    refuses=(409, 410),
)
def segments(model: ModelName, number: int) -> Response:
    """One page by position; with `urls=1` each can be read from the store."""
    limit, after = page_limit(), cursor(int)
    signed = choice_parameter("urls", "0", "1", default="0") == "1"
    with transaction(read_only=True) as session:
        row = _named(session, model, number)
        found = artifacts.layout(session, row, after=after[0] if after else None, limit=limit + 1)
        following = next_cursor(found, limit, lambda stretch: (stretch.position,))
        items = [
            wire.SegmentOut(
                position=stretch.position,
                offset=stretch.offset,
                size=stretch.size,
                digest=format_digest(stretch.sha256),
                url=store().presign_get(stretch.key, expires=config().url_ttl_s) if signed else None,
            )
            for stretch in found
        ]
        return page(wire.Page[wire.SegmentOut](items=items, next=following))


@bp.get("/models/<model:model>/versions/<int:number>/tensors")
@requires(Permission.VERSION_READ)
@operation(
    "List an artifact's tensors",
    answers={200: wire.Page[wire.TensorOut]},
    query=(*PAGED, _ARTIFACT),
    refuses=(409, 410),
)
def tensors(model: ModelName, number: int) -> Response:
    """One page in the order of the file."""
    limit, after = page_limit(), cursor(int)
    with transaction(read_only=True) as session:
        row = _named(session, model, number)
        rows = artifacts.page_of_tensors(session, row, after=after[0] if after else None, limit=limit)
        following = next_cursor(rows, limit, lambda tensor: (tensor.position,))
        items = [shapes.tensor(row) for row in rows]
        return page(wire.Page[wire.TensorOut](items=items, next=following))


@bp.get("/models/<model:model>/versions/<int:number>/artifacts/<path:path>")
@requires(Permission.VERSION_READ)
@operation(
    "Download a file",
    answers={200: "*/*", 206: "*/*", 307: None},
    query=(Parameter("redirect", "0 to stream through the API.", {"type": "string", "enum": ["0", "1"]}),),
    headers=(RANGE,),
    refuses=(409, 410, 416),
)
def download(model: ModelName, number: int, path: str) -> BaseResponse:
    """The bytes: a redirect to the store where one object holds them all, else streamed; `Range` works on both."""
    redirects = choice_parameter("redirect", "0", "1", default="1") == "1"
    with transaction(read_only=True) as session:
        version = artifacts.readable(versions.find(session, actor(), model, number, Permission.VERSION_READ))
        row = artifacts.find(session, version, path)
        wanted = _range(row)
        if _is_unchanged(row):
            return _described(Response(status=HTTPStatus.NOT_MODIFIED), row)
        at_once = redirects and request.method == "GET"
        whole = whole_objects.live_key(session, version.model.namespace_id, row) if at_once else None
        stretches = artifacts.layout(session, row) if request.method == "GET" and whole is None else []
    if at_once and len(stretches) == 1:
        whole = stretches[0].key
    if whole is not None:
        return redirect(store().presign_get(whole, expires=config().url_ttl_s), code=307)
    first, last = wanted or (0, row.size - 1)
    response = Response(_body(stretches, first, last), mimetype=row.media_type)
    response.headers["Content-Length"] = str(last - first + 1)
    if wanted:
        response.status_code = HTTPStatus.PARTIAL_CONTENT
        response.headers["Content-Range"] = f"bytes {first}-{last}/{row.size}"
    return _described(response, row)


def _body(stretches: list[artifacts.Stretch], first: int, last: int) -> "bytes | _Begun":
    if not stretches:
        return b""
    if last - first < artifacts.SMALL:
        return artifacts.small(store(), stretches, first, last)
    return _Begun(artifacts.stream(store(), stretches, first, last))


class _Begun(Iterator[bytes]):
    """The same blocks, the first of them read: a store that is down is a refusal, not an answer that breaks off.

    What goes wrong later ends the connection before the promised length, which every client notices.
    """

    def __init__(self, blocks: Generator[bytes]) -> None:
        """Read the first block. Raises what reading raises."""
        self._first: bytes | None = next(blocks, b"")
        self._blocks = blocks

    def __next__(self) -> bytes:
        """The next block."""
        first, self._first = self._first, None
        if first is not None:
            return first
        try:
            return next(self._blocks)
        except RegistryError as error:
            log.warning("download broke off", code=error.code, reason=str(error))
            raise

    def close(self) -> None:
        """End the reading, whether or not all was taken; the server calls it when the client has gone."""
        self._blocks.close()


def _named(session: Session, model: ModelName, number: int) -> Artifact:
    path = request.args.get("artifact")
    if not path:
        raise InvalidParameterError("artifact must name a file of the version.")
    version = versions.find(session, actor(), model, number, Permission.VERSION_READ)
    return artifacts.find(session, artifacts.readable(version), path)


def _described(response: Response, row: Artifact) -> Response:
    response.set_etag(row.sha256)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Content-Disposition"] = "attachment"  # nothing a user uploaded is ever rendered
    return response


def _is_unchanged(row: Artifact) -> bool:
    return request.if_none_match.contains_weak(row.sha256) if request.if_none_match else False


def _range(row: Artifact) -> tuple[int, int] | None:
    """First and last byte asked for; None for all. A range over a changed file (`If-Range`) means all of it.

    Raises RequestedRangeNotSatisfiable. Several ranges in one request are answered with the whole file, as RFC 9110
    allows.
    """
    asked: Range | None = parse_range_header(request.headers.get("Range"))
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    if request.headers.get("If-Range") and request.if_range.etag != row.sha256:
        return None
    bounds = asked.range_for_length(row.size)
    if bounds is None:
        raise RequestedRangeNotSatisfiable(length=row.size)
    return bounds[0], bounds[1] - 1
