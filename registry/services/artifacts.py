"""Artifacts: the files of a version, where their bytes lie, and the arrays inside them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import Artifact, ArtifactSegment, Segment, StoredObject, Tensor, Version
from registry.domain.errors import NotFoundError, VersionDamagedError
from registry.services import versions
from registry.storage.layout import segment_key
from registry.storage.s3 import Store


class ArtifactNotFoundError(NotFoundError):
    """The version has no file of that path."""

    code = "ARTIFACT_NOT_FOUND"
    remedy = "List the version's files with 'registry show REF'."


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


def stream(store: Store, stretches: Sequence[Stretch], first: int, last: int) -> Iterator[bytes]:
    """The bytes `first` to `last`, both included, a block at a time. Raises ObjectMissingError in the middle."""
    for stretch in stretches:
        begin, end = max(first, stretch.offset), min(last + 1, stretch.offset + stretch.size)
        if begin < end:
            yield from store.stream(stretch.key, offset=begin - stretch.offset, size=end - begin)


def _stretch(artifact: Artifact, row: Any) -> Stretch:
    if row.object_id is None:
        raise VersionDamagedError(f"The bytes of {artifact.path} from offset {row.offset} are damaged.")
    key = segment_key(row.namespace_id, row.sha256, row.generation, row.codec)
    return Stretch(row.position, row.offset, row.size, row.sha256, key, row.object_id)
