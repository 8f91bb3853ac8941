"""Uploads: an open push to one model. It carries the right to send segments and ends in a version, or expires."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.db.tables import Namespace, Upload
from registry.domain.access import Permission
from registry.domain.audit import Action
from registry.domain.errors import ConflictError, GoneError, NotFoundError
from registry.domain.names import ModelName
from registry.services import audit, namespaces
from registry.services.actors import SYSTEM, Actor


class UploadNotFoundError(NotFoundError):
    """There is no such upload, or it is another user's."""

    code = "UPLOAD_NOT_FOUND"
    remedy = "Begin a new push; segments that were sent already are not sent again."


class UploadExpiredError(GoneError):
    """The upload stayed idle for too long and was closed."""

    code = "UPLOAD_EXPIRED"
    remedy = "Begin a new push; segments that were sent already are not sent again."


class UploadCommittedError(ConflictError):
    """The upload was published already."""

    code = "UPLOAD_COMMITTED"
    remedy = "Begin a new push for another version."


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """What later requests of a push need to know."""

    id: str
    namespace_id: int
    model: ModelName
    expires_at: datetime


def begin(session: Session, actor: Actor, name: ModelName, *, ttl_s: int, now: datetime) -> OpenUpload:
    """Open an upload to a model that may not exist yet. Raises NamespaceNotFoundError or PermissionDeniedError."""
    if actor.role_in(name.namespace) is None or not actor.may(Permission.MODEL_READ, name):
        namespaces.find(session, actor, name.namespace)
    actor.check(Permission.UPLOAD_WRITE, name)
    actor.check(Permission.VERSION_PUBLISH, name)
    namespace = namespaces.ensure_for_push(session, actor, name.namespace, now=now)
    upload = Upload(
        id=uuid.uuid4().hex,
        namespace_id=namespace.id,
        model_name=name.name,
        user_id=actor.user_id,
        state="open",
        created_at=now,
        expires_at=now + timedelta(seconds=ttl_s),
    )
    session.add(upload)
    return OpenUpload(upload.id, namespace.id, ModelName(namespace.name, name.name), upload.expires_at)


def find(session: Session, actor: Actor, upload_id: str) -> tuple[Upload, ModelName]:
    """An upload of this actor, in whatever state. Raises UploadNotFoundError or PermissionDeniedError."""
    row = session.execute(
        select(Upload, Namespace.name)
        .join(Namespace, Namespace.id == Upload.namespace_id)
        .where(Upload.id == upload_id)
    ).one_or_none()
    if row is None or (row[0].user_id != actor.user_id and not actor.is_admin):
        raise UploadNotFoundError("There is no such upload.")
    name = ModelName(row[1], row[0].model_name)
    actor.check(Permission.UPLOAD_WRITE, name)
    return row[0], name


def continue_(session: Session, actor: Actor, upload_id: str, *, ttl_s: int, now: datetime) -> OpenUpload:
    """An open upload, its time begun anew if a tenth of it has passed: most requests of a push change nothing here.

    Raises UploadNotFoundError, UploadExpiredError or UploadCommittedError.
    """
    upload, name = find(session, actor, upload_id)
    if upload.state == "committed":
        raise UploadCommittedError(f"The upload to {name} was published already.")
    if upload.state == "expired" or upload.expires_at <= now:
        raise UploadExpiredError(f"The upload to {name} has expired.")
    until = now + timedelta(seconds=ttl_s)
    if until - upload.expires_at >= timedelta(seconds=ttl_s) / 10:
        upload.expires_at = until
    return OpenUpload(upload.id, upload.namespace_id, name, upload.expires_at)


def close(session: Session, upload_id: str, version_id: int) -> None:
    """Note what the upload was published as."""
    session.execute(
        update(Upload).where(Upload.id == upload_id).values(state="committed", version_id=version_id)
    )  # fmt: skip


def abandon(session: Session, actor: Actor, upload_id: str) -> None:
    """Close an upload without a version. Repeating it changes nothing. Raises UploadNotFoundError."""
    upload, name = find(session, actor, upload_id)
    if upload.state == "committed":
        raise UploadCommittedError(f"The upload to {name} was published already.")
    upload.state = "expired"


def expire(session: Session, *, limit: int, now: datetime) -> int:
    """Close up to `limit` uploads whose time is over, and say how many that were."""
    query = (
        select(Upload, Namespace.name)
        .join(Namespace, Namespace.id == Upload.namespace_id)
        .where(Upload.state == "open", Upload.expires_at <= now)
        .order_by(Upload.expires_at)
        .limit(limit)
        .with_for_update(of=Upload, skip_locked=True)
    )
    rows = session.execute(query).all()
    for upload, namespace in rows:
        upload.state = "expired"
        subject = f"{namespace}/{upload.model_name}"
        audit.record(session, SYSTEM, Action.UPLOAD_EXPIRE, subject, {"upload": upload.id}, chain=namespace, now=now)
    return len(rows)
