"""The two steps that a version goes through once it is published. Both may be repeated; what they give is JSON."""

from typing import Any

from registry.db.session import Database, now
from registry.domain.errors import VersionDamagedError
from registry.services import health, integrity, proof
from registry.services.health import Compared
from registry.services.integrity import Fault
from registry.storage.s3 import Store


def prove(database: Database, store: Store, version_id: int) -> dict[str, Any]:
    """Read every byte, write down what each tensor is, and give what is wrong or how healthy the version is.

    Raises StorageUnavailableError: nothing is proved then.
    """
    try:
        with database.transaction(read_only=True) as session:
            files = integrity.files_of(session, version_id)
    except VersionDamagedError as error:
        return {"faults": [[str(error), None]], "health": None}
    found = proof.prove(store, files)
    if found.faults:
        return {"faults": [[fault.message, fault.object_id] for fault in found.faults], "health": None}
    for batch in health.batches(found.tensors):
        with database.transaction() as session:
            health.store(session, batch)
    with database.transaction(read_only=True) as session:
        return {"faults": [], "health": health.compare(session, version_id, found.tensors).document()}


def record(database: Database, version_id: int, proved: dict[str, Any]) -> None:
    """Make of that the version's integrity and health."""
    faults = [Fault(*fault) for fault in proved["faults"]]
    compared = Compared.of(proved["health"]) if proved["health"] else None
    with database.transaction() as session:
        integrity.record(session, version_id, faults, compared, now=now(session))
