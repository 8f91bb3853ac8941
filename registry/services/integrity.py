"""Integrity: proof, by a worker after publication, that the segments of a version add up to its files."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Model, Version
from registry.domain.audit import Action
from registry.domain.digest import format_digest
from registry.services import artifacts, audit, versions
from registry.services.actors import SYSTEM
from registry.services.artifacts import Stretch
from registry.storage.s3 import ObjectMissingError, Store


@dataclass(frozen=True, slots=True)
class FileToProve:
    """A file with its promised sha256 (hex) and where its bytes are."""

    path: str
    sha256: str
    stretches: tuple[Stretch, ...]


def files_of(session: Session, version_id: int) -> list[FileToProve]:
    """What there is to prove; nothing for a version that was purged or proved meanwhile."""
    version = session.get(Version, version_id)
    if version is None or version.state == "purged" or version.integrity != "unverified":
        return []
    return [
        FileToProve(row.path, row.sha256, tuple(artifacts.layout(session, row)))
        for row in versions.artifacts_of(session, version)
    ]


def fault_in(store: Store, file: FileToProve) -> str:
    """Read the file once, segment by segment, and say what is wrong with it; empty if nothing is.

    Raises StorageUnavailableError: that is no proof of anything.
    """
    whole = hashlib.sha256()
    for stretch in file.stretches:
        piece = hashlib.sha256()
        try:
            for block in store.stream(stretch.key):
                piece.update(block)
                whole.update(block)
        except ObjectMissingError:
            return f"{file.path}: the store has lost the bytes from offset {stretch.offset}."
        if piece.hexdigest() != stretch.sha256:
            return f"{file.path}: the bytes from offset {stretch.offset} are not {format_digest(stretch.sha256)}."
    if whole.hexdigest() != file.sha256:
        return f"{file.path}: the whole file is not {format_digest(file.sha256)}."
    return ""


def record(session: Session, version_id: int, faults: list[str], *, now: datetime) -> None:
    """Mark the version verified or damaged. Repeating it changes nothing."""
    version = session.scalars(
        select(Version)
        .where(Version.id == version_id)
        .options(joinedload(Version.model).joinedload(Model.namespace))
        .with_for_update(of=Version)
    ).one()
    if version.integrity != "unverified":
        return
    version.integrity = "damaged" if faults else "verified"
    action = Action.VERSION_DAMAGE if faults else Action.VERSION_VERIFY
    name, chain = versions.name_of(version), version.model.namespace.name
    audit.record(session, SYSTEM, action, name, {"faults": faults[:20]} if faults else {}, chain=chain, now=now)
