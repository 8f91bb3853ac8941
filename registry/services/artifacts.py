"""Artifacts: the files of a version, where their bytes lie, and the arrays inside them."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import Artifact, ArtifactSegment, Segment, StoredObject, Tensor, Version
from registry.domain.errors import NotFoundError, UnavailableError, VersionDamagedError
from registry.services import versions
from registry.storage.layout import segment_key
from registry.storage.s3 import Store
from registry.storage.streaming import Piece, read_ahead

SMALL = 1 << 20
"""Bytes that are answered from memory: nothing waits for whoever takes them slowly."""
_BLOCK = 64 << 10
_STREAMS = 4
_streams = BoundedSemaphore(_STREAMS)


class ArtifactNotFoundError(NotFoundError):
    """The version has no file of that path."""

    code = "ARTIFACT_NOT_FOUND"
    remedy = "List the version's files with 'registry show REF'."


class StreamsBusyError(UnavailableError):
    """The process streams as many files at once as it may; more would leave no thread for other requests."""

    code = "STREAMS_BUSY"
    remedy = "Repeat the request after the seconds in Retry-After, or pull with the client: its bytes pass by."


@dataclass(frozen=True, slots=True)
class Stretch:
    """One segment of an artifact: where its bytes stand, and the object that holds them."""

    position: int
    offset: int
    size: int
    sha256: str
    key: str
    object_id: int


def find(session: Session, version: Version, path: str) -> Artifact:
    """The file at `path`. Raises ArtifactNotFoundError."""
    artifact = session.scalar(select(Artifact).where(Artifact.version_id == version.id, Artifact.path == path))
    if artifact is None:
        raise ArtifactNotFoundError(f"{versions.name_of(version)} has no artifact {path!r}.", path=path)
    return artifact


def readable(version: Version) -> Version:
    """The version if its bytes may be given out.

    Raises VersionDamagedError, VersionTrashedError or VersionPurgedError.
    """
    versions.live(version)
    if version.integrity == "damaged":
        raise VersionDamagedError(f"The bytes of {versions.name_of(version)} are damaged.")
    return version


def page_of_artifacts(session: Session, version: Version, *, after: str | None, limit: int) -> list[Artifact]:
    """Files by path, `limit + 1` at most."""
    query = select(Artifact).where(Artifact.version_id == version.id)
    if after is not None:
        query = query.where(Artifact.path > after)
    return list(session.scalars(query.order_by(Artifact.path).limit(limit + 1)))


def page_of_tensors(session: Session, artifact: Artifact, *, after: int | None, limit: int) -> list[Tensor]:
    """Arrays in the order of the file, `limit + 1` at most."""
    query = select(Tensor).where(Tensor.artifact_id == artifact.id)
    if after is not None:
        query = query.where(Tensor.position > after)
    return list(session.scalars(query.order_by(Tensor.position).limit(limit + 1)))


def layout(
    session: Session, artifact: Artifact, *, after: int | None = None, limit: int | None = None
) -> list[Stretch]:
    """The segments in order, from behind position `after`. Raises VersionDamagedError if the bytes of one are gone."""
    query = (
        select(
            ArtifactSegment.position,
            ArtifactSegment.offset,
            Segment.size,
            Segment.sha256,
            Segment.namespace_id,
            StoredObject.id.label("object_id"),
            StoredObject.generation,
            StoredObject.codec,
        )
        .join(Segment, Segment.id == ArtifactSegment.segment_id)
        .outerjoin(StoredObject, (StoredObject.segment_id == Segment.id) & (StoredObject.state == "live"))
        .where(ArtifactSegment.artifact_id == artifact.id)
        .order_by(ArtifactSegment.position)
        .limit(limit)
    )
    if after is not None:
        query = query.where(ArtifactSegment.position > after)
    return [_stretch(artifact, row) for row in session.execute(query)]


def stream(store: Store, stretches: Sequence[Stretch], first: int, last: int) -> Generator[bytes]:
    """The bytes `first` to `last`, both included, a block at a time; whole segments are checked as they pass.

    Raises StreamsBusyError before the first block; and VersionDamagedError, ObjectMissingError or
    StorageUnavailableError, possibly in the middle.
    """
    if not _streams.acquire(blocking=False):
        raise StreamsBusyError("This process streams as many files as it can.")
    try:
        for view in read_ahead(store, _pieces(stretches, first, last)):
            for start in range(0, len(view), _BLOCK):
                yield bytes(view[start : start + _BLOCK])
    finally:
        _streams.release()


def small(store: Store, stretches: Sequence[Stretch], first: int, last: int) -> bytes:
    """The same bytes at once; for no more than SMALL of them. Raises what `stream` raises but StreamsBusyError."""
    return b"".join(map(bytes, read_ahead(store, _pieces(stretches, first, last))))


def _pieces(stretches: Sequence[Stretch], first: int, last: int) -> Iterator[Piece]:
    for stretch in stretches:
        begin, end = max(first, stretch.offset), min(last + 1, stretch.offset + stretch.size)
        if begin < end:
            is_whole = end - begin == stretch.size
            yield Piece(stretch.key, begin - stretch.offset, end - begin, stretch.sha256 if is_whole else None)


def _stretch(artifact: Artifact, row: Any) -> Stretch:
    if row.object_id is None:
        raise VersionDamagedError(f"The bytes of {artifact.path} from offset {row.offset} are damaged.")
    key = segment_key(row.namespace_id, row.sha256, row.generation, row.codec)
    return Stretch(row.position, row.offset, row.size, row.sha256, key, row.object_id)
