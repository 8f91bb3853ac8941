"""`/models/{name}/versions` and `/resolve`: what was published, and what a reference means."""

from http import HTTPStatus

from flask import Blueprint, Response, request

from registry import wire
from registry.api import shapes
from registry.api.operation import PAGED, Parameter, operation
from registry.db.session import now
from registry.domain.access import Permission
from registry.domain.digest import format_digest
from registry.domain.names import ModelName, parse_model
from registry.domain.references import parse_reference
from registry.request import (
    InvalidParameterError,
    actor,
    answer,
    body,
    choice_parameter,
    config,
    cursor,
    next_cursor,
    page,
    page_limit,
    reading,
    requires,
    store,
    transaction,
)
from registry.services import copies, models, policies, versions

bp = Blueprint("versions", __name__)

_ONE = "/models/<model:model>/versions/<int:number>"


@bp.get("/resolve")
@requires(Permission.VERSION_READ)
@operation(
    "Say which version a reference means",
    answers={200: wire.ResolveOut},
    query=(Parameter("ref", "NAME, NAME:7, NAME@production, NAME@best or NAME@sha256:….", required=True),),
    refuses=(404, 410),
)
def resolve() -> Response:
    """Model, number and digest."""
    text = request.args.get("ref")
    if not text:
        raise InvalidParameterError("ref must be a reference such as vision/yolo11n@production.")
    reference = parse_reference(text)
    with reading() as connection:
        found = versions.glance(connection, actor(), reference)
    if found is None:
        with transaction(read_only=True) as session:
            found = versions.meant(versions.resolve(session, actor(), reference))
    shape = wire.ResolveOut(
        model=str(found.model), number=found.number, digest=format_digest(found.digest), ref=text
    )  # fmt: skip
    return answer(shape, etag=f"{found.id}-{found.digest[:16]}")


@bp.get("/models/<model:model>/versions")
@requires(Permission.VERSION_READ)
@operation(
    "List a model's versions",
    answers={200: wire.Page[wire.VersionItem]},
    query=(
        *PAGED,
        Parameter("kind", "Only these.", {"type": "string", "enum": ["release", "checkpoint"]}),
        Parameter("state", "Only these; `ready` if left out.", {"type": "string", "enum": ["ready", "trashed"]}),
    ),
)
def index(model: ModelName) -> Response:
    """One page, newest first."""
    limit, before = page_limit(), cursor(int)
    kind, state = choice_parameter("kind", "release", "checkpoint"), choice_parameter("state", "ready", "trashed")
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.VERSION_READ)
        rows = versions.page_of_versions(
            session, row, before=before[0] if before else None, limit=limit, kind=kind, state=state
        )
        following = next_cursor(rows, limit, lambda version: (version.number,))
        around = versions.surroundings(session, actor(), rows)
        items = [shapes.version_item(version, around) for version in rows]
        return page(wire.Page[wire.VersionItem](items=items, next=following))


@bp.get(_ONE)
@requires(Permission.VERSION_READ)
@operation("Show a version", answers={200: wire.VersionOut})
def show(model: ModelName, number: int) -> Response:
    """A version whole, in whatever state."""
    with transaction(read_only=True) as session:
        version = versions.find(session, actor(), model, number, Permission.VERSION_READ)
        return answer(shapes.version_whole(session, actor(), version))


@bp.patch(_ONE)
@requires(Permission.VERSION_PUBLISH)
@operation("Change a version's description", body=wire.VersionPatch, answers={200: wire.VersionOut}, refuses=(410,))
def update(model: ModelName, number: int) -> Response:
    """Its message is the one thing that is prose; everything else is immutable."""
    asked = body(wire.VersionPatch)
    with transaction() as session:
        version = versions.live(versions.find(session, actor(), model, number, Permission.VERSION_PUBLISH))
        versions.describe(session, actor(), version, asked.message, now=now(session))
        return answer(shapes.version_whole(session, actor(), version))


@bp.delete(_ONE)
@requires(Permission.VERSION_TRASH)
@operation("Put a version in the trash", answers={200: wire.VersionOut}, refuses=(410,))
def delete(model: ModelName, number: int) -> Response:
    """It can be restored; what is in use is refused with the reasons."""
    with transaction() as session:
        version = versions.find(session, actor(), model, number, Permission.VERSION_TRASH)
        versions.trash(session, actor(), version, now=now(session))
        return answer(shapes.version_whole(session, actor(), version))


@bp.post(f"{_ONE}/restore")
@requires(Permission.VERSION_RESTORE)
@operation("Take a version out of the trash", answers={200: wire.VersionOut}, refuses=(410,))
def restore(model: ModelName, number: int) -> Response:
    """The same number means it again."""
    with transaction() as session:
        version = versions.find(session, actor(), model, number, Permission.VERSION_RESTORE)
        versions.restore(session, actor(), version, now=now(session))
        policies.evidence_changed(session, version)
        return answer(shapes.version_whole(session, actor(), version))


@bp.post(f"{_ONE}/copy")
@requires(Permission.VERSION_READ)
@operation(
    "Copy a version to another model",
    body=wire.CopyIn,
    answers={201: wire.VersionOut, 200: wire.VersionOut},
    refuses=(410,),
)
def copy(model: ModelName, number: int) -> Response:
    """By the store itself: no bytes are uploaded again. Repeating it answers the same version."""
    asked = body(wire.CopyIn)
    target = parse_model(asked.to)
    with transaction(remember=False) as session:
        source = versions.find(session, actor(), model, number, Permission.VERSION_READ)
        plan = copies.plan(
            session,
            actor(),
            source,
            target,
            lease_s=config().lease_ttl_s,
            ttl_s=config().upload_ttl_s,
            now=now(session),
        )
    copies.move(store(), plan)
    with transaction() as session:
        copied, created = copies.finish(
            session, actor(), plan, message=asked.message, stages=config().stages, now=now(session)
        )
        session.flush()  # the answer shows the edges just made
        shape = shapes.version_whole(session, actor(), copied, created=created)
        return answer(shape, HTTPStatus.CREATED if created else HTTPStatus.OK)
