"""Integrity: proof, by a worker after publication, that the segments of a version add up to its files.

The bytes are read by `proof`, which measures the tensors on the way: what it found becomes the version's integrity and
its health here, in one transaction and with one event. An object whose bytes are wrong or gone is condemned. Pushing
the same files again then sends those bytes anew, under a fresh key, and the version is proved once more.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session, joinedload

from registry.db.queue import enqueue
from registry.db.tables import Model, StoredObject, Tensor, Version
from registry.domain.audit import Action
from registry.services import artifacts, audit, health, policies, versions
from registry.services.actors import SYSTEM
from registry.services.artifacts import Stretch
from registry.services.health import Compared
from registry.weights import tensors

VERIFY = "verify_version"
"""The workflow that proves whole-file digests and measures tensors."""


@dataclass(frozen=True, slots=True)
class ArrayToMeasure:
    """A tensor, and which row of its artifact's it is."""

    position: int
    tensor: tensors.Tensor


@dataclass(frozen=True, slots=True)
class FileToProve:
    """A file with its promised sha256 (hex), where its bytes are, and its tensors by offset."""

    artifact_id: int
    path: str
    sha256: str
    stretches: tuple[Stretch, ...]
    arrays: tuple[ArrayToMeasure, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a file, and which object holds the wrong bytes if it is one."""

    message: str
    object_id: int | None = None


def files_of(session: Session, version_id: int) -> list[FileToProve]:
    """What there is to prove; nothing for a version that was purged or proved meanwhile.

    Raises VersionDamagedError if bytes are known to be gone already.
    """
    version = session.get(Version, version_id)
    if version is None or not _is_open(version):
        return []
    return [
        FileToProve(row.id, row.path, row.sha256, tuple(artifacts.layout(session, row)), _arrays(session, row.id))
        for row in versions.artifacts_of(session, version)
    ]


def record(session: Session, version_id: int, faults: list[Fault], found: Compared | None, *, now: datetime) -> None:
    """Without faults the version is verified, and its health known; else it is damaged, and objects are condemned.

    Repeating it changes nothing.
    """
    version = session.scalars(
        select(Version)
        .where(Version.id == version_id)
        .options(joinedload(Version.model).joinedload(Model.namespace))
        .with_for_update(of=Version)
    ).one()
    if not _is_open(version):
        return
    version.integrity = "damaged" if faults else "verified"
    condemned = [fault.object_id for fault in faults if fault.object_id is not None]
    session.execute(
        update(StoredObject)
        .where(StoredObject.id.in_(condemned), StoredObject.state == "live")
        .values(state="condemned")
        .execution_options(synchronize_session=False)
    )
    told = health.record(session, version, None if faults else found, now=now)
    action = Action.VERSION_DAMAGE if faults else Action.VERSION_VERIFY
    name, chain = versions.name_of(version), version.model.namespace.name
    detail = {"faults": [fault.message for fault in faults[:20]]} if faults else told
    policies.evidence_changed(session, version)
    audit.record(session, SYSTEM, action, name, detail, chain=chain, now=now)


def prove_again(session: Session, version: Version, *, key: str) -> None:
    """Have a damaged version proved once more, now that its bytes were sent anew."""
    version.integrity, version.health = "unverified", "pending"
    enqueue(session, VERIFY, version.id, key=f"{version.id}:{key}")


def _is_open(version: Version) -> bool:
    return version.state != "purged" and version.integrity == "unverified"


def _arrays(session: Session, artifact_id: int) -> tuple[ArrayToMeasure, ...]:
    columns = (Tensor.position, Tensor.name, Tensor.dtype, Tensor.shape, Tensor.offset, Tensor.size)
    rows = session.execute(
        select(*columns).where(Tensor.artifact_id == artifact_id).order_by(Tensor.offset, Tensor.position)
    )
    return tuple(
        ArrayToMeasure(row.position, tensors.Tensor(row.name, row.dtype, tuple(row.shape), row.offset, row.size))
        for row in rows
    )
