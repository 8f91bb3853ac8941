"""Integrity: proof, by a worker after publication, that the segments of a version add up to its files.

An object whose bytes are wrong or gone is condemned. Pushing the same files again then sends those bytes anew, under a
fresh key, and the version is proved once more.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session, joinedload

from registry.db.queue import enqueue
from registry.db.tables import Model, StoredObject, Version
from registry.domain.audit import Action
from registry.domain.digest import format_digest
from registry.services import artifacts, audit, versions
from registry.services.actors import SYSTEM
from registry.services.artifacts import Stretch
from registry.storage.s3 import ObjectMissingError, Store

VERIFY = "verify_version"
"""The workflow that proves whole-file digests."""


@dataclass(frozen=True, slots=True)
class FileToProve:
    """A file with its promised sha256 (hex) and where its bytes are."""

    path: str
    sha256: str
    stretches: tuple[Stretch, ...]


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
    if version is None or version.state == "purged" or version.integrity != "unverified":
        return []
    return [
        FileToProve(row.path, row.sha256, tuple(artifacts.layout(session, row)))
        for row in versions.artifacts_of(session, version)
    ]


def faults_in(store: Store, file: FileToProve) -> list[Fault]:
    """Read the file once, segment by segment, and say everything that is wrong with it.

    Raises StorageUnavailableError: that is no proof of anything.
    """
    whole, faults = hashlib.sha256(), []
    for stretch in file.stretches:
        piece = hashlib.sha256()
        try:
            for block in store.stream(stretch.key):
                piece.update(block)
                whole.update(block)
        except ObjectMissingError:
            lost = f"{file.path}: the store has lost the bytes from offset {stretch.offset}."
            faults.append(Fault(lost, stretch.object_id))
            continue
        if piece.hexdigest() != stretch.sha256:
            wrong = f"{file.path}: the bytes from offset {stretch.offset} are not {format_digest(stretch.sha256)}."
            faults.append(Fault(wrong, stretch.object_id))
    if not faults and whole.hexdigest() != file.sha256:
        faults.append(Fault(f"{file.path}: the whole file is not {format_digest(file.sha256)}."))
    return faults


def record(session: Session, version_id: int, faults: list[Fault], *, now: datetime) -> None:
    """Mark the version verified or damaged, and condemn the objects at fault. Repeating it changes nothing."""
    version = session.scalars(
        select(Version)
        .where(Version.id == version_id)
        .options(joinedload(Version.model).joinedload(Model.namespace))
        .with_for_update(of=Version)
    ).one()
    if version.integrity != "unverified":
        return
    version.integrity = "damaged" if faults else "verified"
    condemned = [fault.object_id for fault in faults if fault.object_id is not None]
    session.execute(
        update(StoredObject)
        .where(StoredObject.id.in_(condemned), StoredObject.state == "live")
        .values(state="condemned")
        .execution_options(synchronize_session=False)
    )
    action = Action.VERSION_DAMAGE if faults else Action.VERSION_VERIFY
    name, chain = versions.name_of(version), version.model.namespace.name
    detail = {"faults": [fault.message for fault in faults[:20]]} if faults else {}
    audit.record(session, SYSTEM, action, name, detail, chain=chain, now=now)


def prove_again(session: Session, version: Version, *, key: str) -> None:
    """Have a damaged version proved once more, now that its bytes were sent anew."""
    version.integrity = "unverified"
    enqueue(session, VERIFY, version.id, key=f"{version.id}:{key}")
