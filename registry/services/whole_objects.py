"""Whole objects: files of staged versions in one piece, so that plain downloads of them go to the store.

Which files those are is read from the stages each time (`reconcile`), never told by a message: after any number of
promotions in any order the last reconciliation sees the last state. A file that is to be written gets a row, `pending`,
and one workflow that writes it, in one transaction; once its object is there the row is `live` and downloads are
redirected to it. A file that is on no stage any more is `condemned`, and deleted when no URL to it can be valid.

A row never leaves `condemned`, and a key is never used twice: a file that returns to a stage is written anew.
"""

import hashlib
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, func, select, union, update
from sqlalchemy.orm import Session

from registry.db.queue import enqueue
from registry.db.tables import Artifact, Model, Namespace, Pointer, Version, WholeObject
from registry.domain.errors import VersionDamagedError
from registry.services import artifacts, integrity
from registry.services.artifacts import Stretch
from registry.storage import multipart
from registry.storage.layout import NAMESPACES, WholeKey, parse_whole_key, whole_key
from registry.storage.multipart import OpenUpload, Part
from registry.storage.s3 import ObjectMissingError, Store
from registry.storage.streaming import Piece, read_ahead
from registry.storage.transfer import Abort

RECONCILE = "reconcile_whole_objects"
"""The workflow that compares a namespace's whole objects with its stages."""
WRITE = "write_whole_object"
"""The workflow that writes one."""
QUEUE = "registry-whole"
"""Of the second: it reads and writes all of a file, and nothing that is waited for may stand behind it."""

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_SENDERS = 2
_LATE = timedelta(minutes=5)
"""Longest time from a request's look at the row to its answer, with room to spare."""
_GIVEN_UP = timedelta(days=1)
"""A row that is pending for longer has lost its workflow, and an upload that is open for longer its worker."""


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A file that is to be one object: its key, size, sha256 (hex), and where its bytes are."""

    key: str
    size: int
    sha256: str
    stretches: tuple[Stretch, ...]


# Rows


def live_key(session: Session, namespace_id: int, artifact: Artifact) -> str | None:
    """The key of the whole file, if it may be read there now."""
    if artifact.segment_count <= 1:
        return None
    query = select(WholeObject.generation).where(
        WholeObject.namespace_id == namespace_id, WholeObject.sha256 == artifact.sha256, WholeObject.state == "live"
    )
    generation = session.scalar(query)
    return None if generation is None else whole_key(namespace_id, artifact.sha256, generation)


def reconcile(session: Session, namespace_id: int, *, now: datetime) -> None:
    """Have exactly the files of staged versions written whole, and condemn what else there is.

    Files of one segment are one object anyway. Of a damaged version nothing is written.
    """
    # One at a time, or two that look at the same moment could each act on half of what happened.
    lock = select(Namespace.id).where(Namespace.id == namespace_id)
    session.execute(lock.with_for_update(key_share=True))
    staged = _staged(Artifact.sha256, Artifact.size).where(Model.namespace_id == namespace_id)
    wanted = {row.sha256: row.size for row in session.execute(staged.distinct())}
    current = select(WholeObject).where(WholeObject.namespace_id == namespace_id, WholeObject.state != "condemned")
    for row in session.scalars(current).all():
        if row.sha256 not in wanted or (row.state == "pending" and row.created_at < now - _GIVEN_UP):
            row.state, row.condemned_at = "condemned", now
        else:
            del wanted[row.sha256]
    session.flush()  # before rows of the same files
    for sha256, size in wanted.items():
        _begin(session, namespace_id, sha256, size, now)


def namespaces(session: Session) -> list[int]:
    """Ids of the namespaces that have files to be written whole, or have whole objects."""
    held = select(WholeObject.namespace_id).where(WholeObject.state != "condemned")
    return sorted(session.scalars(union(_staged(Model.namespace_id), held)))


def source_of(session: Session, row_id: int) -> WholeFile | None:
    """What to write for a pending row; None if it is not pending any more.

    Raises VersionDamagedError if bytes are known to be gone.
    """
    row = session.get(WholeObject, row_id)
    if row is None or row.state != "pending":
        return None
    artifact = _artifact_of(session, row)
    if artifact is None:
        raise VersionDamagedError(f"No intact version holds the file {row.sha256}.")
    key = whole_key(row.namespace_id, row.sha256, row.generation)
    return WholeFile(key, row.size, row.sha256, tuple(artifacts.layout(session, artifact)))


def record(session: Session, row_id: int, *, is_written: bool, now: datetime) -> bool:
    """Make a pending row live, or condemn it and have its version proved again. Repeating it changes nothing.

    False if there is no such row any more: then nobody else will delete what was written.
    """
    row = session.get(WholeObject, row_id, with_for_update=True)
    if row is None or row.state != "pending":
        return row is not None  # It left its stages meanwhile, and is deleted in its time.
    if is_written:
        row.state = "live"
        return True
    row.state, row.condemned_at = "condemned", now
    artifact = _artifact_of(session, row)
    if artifact is not None:
        version = session.get_one(Version, artifact.version_id)
        integrity.prove_again(session, version, key=f"whole-{row.id}")
    return True


def live_keys(session: Session) -> dict[str, int]:
    """Ids of the live rows by key."""
    rows = session.scalars(select(WholeObject).where(WholeObject.state == "live"))
    return {whole_key(row.namespace_id, row.sha256, row.generation): row.id for row in rows}


def condemn(session: Session, row_ids: Sequence[int], *, now: datetime) -> None:
    """Take live rows back whose objects are not there, as after the restore of an older database."""
    query = update(WholeObject).where(WholeObject.id.in_(row_ids), WholeObject.state == "live")
    values = query.values(state="condemned", condemned_at=now)
    session.execute(values.execution_options(synchronize_session=False))


def due(session: Session, *, url_ttl_s: int, limit: int, now: datetime) -> list[tuple[int, str]]:
    """Ids and keys of condemned rows to which no URL can be valid any more."""
    until = now - timedelta(seconds=url_ttl_s) - _LATE
    query = (
        select(WholeObject)
        .where(WholeObject.state == "condemned", WholeObject.condemned_at < until)
        .order_by(WholeObject.condemned_at)
        .limit(limit)
    )
    return [(row.id, whole_key(row.namespace_id, row.sha256, row.generation)) for row in session.scalars(query)]


def forget(session: Session, row_ids: Sequence[int]) -> None:
    """Drop condemned rows whose objects were deleted."""
    query = delete(WholeObject).where(WholeObject.id.in_(row_ids), WholeObject.state == "condemned")
    session.execute(query.execution_options(synchronize_session=False))


def is_pending(session: Session, key: WholeKey) -> bool:
    """Whether a worker may be writing to the key."""
    query = select(WholeObject.id).where(
        WholeObject.namespace_id == key.namespace_id,
        WholeObject.sha256 == key.sha256,
        WholeObject.generation == key.generation,
        WholeObject.state == "pending",
    )
    return session.scalar(query) is not None


def _staged(*columns: Any) -> Select[Any]:
    """Something of the files, of more segments than one, of intact versions on any stage."""
    return (
        select(*columns)
        .select_from(Pointer)
        .join(Model, Model.id == Pointer.model_id)
        .join(Version, (Version.model_id == Pointer.model_id) & (Version.number == Pointer.number))
        .join(Artifact, Artifact.version_id == Version.id)
        .where(
            Pointer.kind == "stage",
            Model.deleted_at.is_(None),
            Version.state == "ready",
            Version.integrity != "damaged",
            Artifact.segment_count > 1,
        )
    )


def _begin(session: Session, namespace_id: int, sha256: str, size: int, now: datetime) -> None:
    of_file = (WholeObject.namespace_id == namespace_id) & (WholeObject.sha256 == sha256)
    last = session.scalar(select(func.max(WholeObject.generation)).where(of_file)) or 0
    # A time: rows are dropped in the end, and a count would begin anew with a key that is being deleted.
    generation = max(last + 1, int((now - _EPOCH).total_seconds()))
    row = WholeObject(namespace_id=namespace_id, sha256=sha256, size=size, generation=generation, created_at=now)
    session.add(row)
    session.flush()  # for its id
    where = whole_key(namespace_id, sha256, generation)
    enqueue(session, WRITE, row.id, where, key=str(row.id), queue=QUEUE)


def _artifact_of(session: Session, row: WholeObject) -> Artifact | None:
    query = _staged(Artifact).where(Model.namespace_id == row.namespace_id, Artifact.sha256 == row.sha256)
    found: Artifact | None = session.scalar(query.order_by(Artifact.id).limit(1))
    return found


# Bytes


def write(store: Store, file: WholeFile) -> None:
    """Put the file's segments together under its key; done at once if it is there already.

    Only bytes that have the file's sha256 ever come under the key, so an object there is the right one.
    Raises VersionDamagedError, ObjectMissingError if a segment is gone, StorageUnavailableError or StorageFullError.
    """
    if _is_there(store, file):
        return
    parts, abort = store.multipart, Abort()
    upload_id = parts.begin(file.key)
    try:
        with ThreadPoolExecutor(_SENDERS, thread_name_prefix="send-part") as pool:
            try:
                sent = _send(store, file, upload_id, pool, abort)
            except BaseException:
                abort.set()
                raise
        parts.complete(file.key, upload_id, sent)
    except BaseException:
        parts.abort(file.key, upload_id)
        raise
    store.settle()


def unended(store: Store) -> list[tuple[WholeKey, OpenUpload]]:
    """Uploads of whole files that have not ended. Raises StorageUnavailableError."""
    found = ((parse_whole_key(upload.key), upload) for upload in store.multipart.unended(NAMESPACES))
    return [(key, upload) for key, upload in found if key is not None]


def is_abandoned(session: Session, key: WholeKey, upload: OpenUpload, *, now: datetime) -> bool:
    """Whether nobody will end the upload. Ask after it was seen: its row was there before it."""
    return upload.begun_at < now - _GIVEN_UP or not is_pending(session, key)


def _is_there(store: Store, file: WholeFile) -> bool:
    try:
        return store.head(file.key).size == file.size
    except ObjectMissingError:
        return False


def _send(store: Store, file: WholeFile, upload_id: str, pool: ThreadPoolExecutor, abort: Abort) -> list[Part]:
    """Every part, the file's sha256 having been found right in the same pass."""
    size = min(multipart.part_size(file.size), file.size)
    free = [memoryview(bytearray(size)) for _ in range(_SENDERS + 1)]
    whole, sending, sent = hashlib.sha256(), list[tuple[memoryview, Future[Part]]](), list[Part]()
    with closing(_filled(store, file, free)) as parts:
        for number, part in enumerate(parts, 1):
            sending.append((part, pool.submit(store.multipart.put, file.key, upload_id, number, part, abort=abort)))
            whole.update(part)
            if not free:
                buffer, future = sending.pop(0)
                sent.append(future.result())
                free.append(buffer)
    sent.extend(future.result() for _, future in sending)
    if whole.hexdigest() != file.sha256:
        raise VersionDamagedError(f"The segments of {file.key} do not add up to it.", key=file.key)
    return sent


def _filled(store: Store, file: WholeFile, free: list[memoryview]) -> Generator[memoryview]:
    """Full parts, the last as long as it is; each in a buffer from `free`."""
    part, filled = free.pop(), 0
    with closing(read_ahead(store, (Piece(each.key, 0, each.size) for each in file.stretches))) as views:
        for view in views:
            rest = view
            while rest:
                taken = min(len(rest), len(part) - filled)
                part[filled : filled + taken] = rest[:taken]
                filled, rest = filled + taken, rest[taken:]
                if filled == len(part):
                    yield part
                    part, filled = free.pop(), 0
    if filled:
        yield part[:filled]
