"""`/uploads`: the protocol of a push. Weight bytes never come here; they go to the store by the URLs given out."""

from datetime import datetime
from http import HTTPStatus

from flask import Blueprint, Response, request

from registry import wire
from registry.api import shapes
from registry.api.operation import operation
from registry.db.session import now
from registry.domain.access import Permission
from registry.domain.digest import format_digest, parse_digest
from registry.domain.names import parse_model
from registry.domain.references import parse_parent
from registry.request import Session, actor, answer, body, config, requires, store, transaction
from registry.services import metrics, publishing, segments, uploads
from registry.services.publishing import Draft, DraftArtifact
from registry.services.segments import Place
from registry.services.uploads import OpenUpload
from registry.storage.s3 import StoredObject

bp = Blueprint("uploads", __name__)

COMMIT_LIMIT = 64 * 1024 * 1024
"""Bytes of a commit's JSON: some 400,000 segments, which is a version of 1.6 TB."""

_BATCH_LIMIT = 4 * 1024 * 1024


@bp.post("/uploads")
@requires(Permission.UPLOAD_WRITE)
@operation("Begin a push", body=wire.UploadIn, answers={201: wire.UploadOut}, refuses=(404, 410))
def create() -> Response:
    """Open an upload and answer the first batch of segments."""
    request.max_content_length = _BATCH_LIMIT
    asked = body(wire.UploadIn)
    wanted = _sizes(asked.segments)
    store().require_room(sum(wanted.values()))
    with transaction(remember=False) as session:
        at = now(session)
        upload = uploads.begin(session, actor(), parse_model(asked.model), ttl_s=config().upload_ttl_s, now=at)
        places = _ask(session, upload, wanted, at)
    items = _answers(places, asked.segments)
    shape = wire.UploadOut(
        id=upload.id, model=str(upload.model), state="open", expires_at=upload.expires_at, items=items
    )
    return answer(shape, HTTPStatus.CREATED)


@bp.get("/uploads/<upload>")
@requires(Permission.UPLOAD_WRITE)
@operation("Show an upload", answers={200: wire.UploadOut})
def show(upload: str) -> Response:
    """State and expiry."""
    with transaction(read_only=True) as session:
        row, name = uploads.find(session, actor(), upload)
        shape = wire.UploadOut.model_validate(
            {"id": row.id, "model": str(name), "state": row.state, "expires_at": row.expires_at}
        )
        return answer(shape)


@bp.delete("/uploads/<upload>")
@requires(Permission.UPLOAD_WRITE)
@operation("Abandon an upload", answers={204: None}, refuses=(410,))
def delete(upload: str) -> Response:
    """What was sent stays for a later push until its lease ends."""
    with transaction(remember=False) as session:
        uploads.abandon(session, actor(), upload)
    return Response(status=HTTPStatus.NO_CONTENT)


@bp.post("/uploads/<upload>/segments")
@requires(Permission.UPLOAD_WRITE)
@operation("Ask which segments are missing", body=wire.SegmentsIn, answers={200: wire.SegmentAnswers}, refuses=(410,))
def ask(upload: str) -> Response:
    """Either answer leases the segment."""
    request.max_content_length = _BATCH_LIMIT
    asked = body(wire.SegmentsIn)
    wanted = _sizes(asked.segments)
    store().require_room(sum(wanted.values()))
    with transaction(remember=False) as session:
        at = now(session)
        found = uploads.continue_(session, actor(), upload, ttl_s=config().upload_ttl_s, now=at)
        places = _ask(session, found, wanted, at)
    return answer(wire.SegmentAnswers(items=_answers(places, asked.segments)))


@bp.patch("/uploads/<upload>/segments")
@requires(Permission.UPLOAD_WRITE)
@operation("Report segments as sent", body=wire.FinishedIn, answers={200: wire.FinishedOut}, refuses=(410,))
def report(upload: str) -> Response:
    """The store is asked outside any transaction; what it holds whole becomes present."""
    digests = [parse_digest(digest) for digest in body(wire.FinishedIn).digests]
    with transaction(remember=False) as session:
        found = uploads.continue_(session, actor(), upload, ttl_s=config().upload_ttl_s, now=now(session))
        places = segments.places(session, found.namespace_id, digests)
    segments.check_complete(digests, places)
    pending = [place for place in places.values() if place.state == "pending"]
    segments.check_complete(digests, set(places) - set(segments.unseen(pending, _heads(pending))))
    store().settle()  # what is called present must survive a power cut
    with transaction(remember=False) as session:
        segments.mark_live(session, pending)
    return answer(wire.FinishedOut(present=len(places)))


@bp.post("/uploads/<upload>/commit")
@requires(Permission.UPLOAD_WRITE)
@operation(
    "Publish the version",
    body=wire.CommitIn,
    answers={200: wire.VersionOut, 201: wire.VersionOut},
    refuses=(410,),
)
def commit(upload: str) -> Response:
    """201 with the new version, or 200 with the one this push repeats."""
    request.max_content_length = COMMIT_LIMIT
    draft = _draft(body(wire.CommitIn))
    publishing.check(draft)
    with transaction() as session:  # also where a retry finds its answer
        found = uploads.continue_(session, actor(), upload, ttl_s=config().upload_ttl_s, now=now(session))
        places = publishing.plan(session, found, draft)
    facts = publishing.inspect(store(), draft, places)
    with transaction() as session:
        at = now(session)
        again = uploads.continue_(session, actor(), upload, ttl_s=config().upload_ttl_s, now=at)
        version, created = publishing.publish(session, actor(), again, draft, facts, stages=config().stages, now=at)
        session.flush()  # the answer shows metrics and tags that came along
        if created and draft.is_bare:
            shape = shapes.version_bare(session, version)  # short, because others wait for the model meanwhile
        else:
            shape = shapes.version_whole(session, actor(), version, created=created)
        return answer(shape, HTTPStatus.CREATED if created else HTTPStatus.OK)


def _sizes(asked: list[wire.SegmentIn]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for segment in asked:
        if sizes.setdefault(parse_digest(segment.digest), segment.size) != segment.size:
            raise segments.SegmentSizeError(f"{segment.digest} was given with two sizes.")
    return sizes


def _ask(session: Session, upload: OpenUpload, wanted: dict[str, int], at: datetime) -> dict[str, Place]:
    return segments.ask(session, upload.namespace_id, wanted, lease_s=config().lease_ttl_s, now=at)


def _answers(places: dict[str, Place], asked: list[wire.SegmentIn]) -> list[wire.SegmentAnswer]:
    """`have`, or a signed URL. Segments offered before may have arrived since, from a push that was killed."""
    offered = [place for place in places.values() if place.state == "pending" and not place.is_new]
    if offered:
        missing = set(segments.unseen(offered, _heads(offered)))
        arrived = [place for place in offered if place.sha256 not in missing]
        if arrived:
            store().settle()
            with transaction(remember=False) as session:
                segments.mark_live(session, arrived)
        places |= {place.sha256: place.as_live() for place in arrived}
    return [_answer(places[parse_digest(segment.digest)]) for segment in asked]


def _answer(place: Place) -> wire.SegmentAnswer:
    digest = format_digest(place.sha256)
    if place.state == "live":
        return wire.SegmentAnswer(digest=digest, status="have")
    put = store().presign_put(place.key, sha256=place.sha256, size=place.size, expires=config().url_ttl_s)
    return wire.SegmentAnswer(digest=digest, status="upload", url=put.url, headers=put.headers)


def _heads(places: list[Place]) -> dict[str, StoredObject]:
    return store().head_many([place.key for place in places]) if places else {}


def _draft(asked: wire.CommitIn) -> Draft:
    return Draft(
        artifacts=tuple(
            DraftArtifact(
                path=artifact.path,
                size=artifact.size,
                sha256=parse_digest(artifact.digest),
                segments=tuple((parse_digest(segment.digest), segment.size) for segment in artifact.segments),
            )
            for artifact in asked.artifacts
        ),
        kind=asked.kind,
        variant=asked.variant,
        message=asked.message,
        params=asked.params,
        class_names=asked.class_names,
        run=asked.run,
        parents=[parse_parent(parent) for parent in asked.parents],
        metrics=[metrics.Measurement(**metric.model_dump()) for metric in asked.metrics],
        tags=asked.tags,
        aliases=asked.aliases,
        new=asked.new,
    )
