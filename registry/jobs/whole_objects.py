"""Writing the files of staged versions in one piece, and taking away those that left their stages."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from dbos import DBOS

from registry.db.session import now
from registry.domain.errors import VersionDamagedError
from registry.jobs.workflows import Tools
from registry.services import whole_objects
from registry.services.whole_objects import RECONCILE, WRITE
from registry.storage.s3 import ObjectMissingError

SWEEP = "sweep_whole_objects"
_AT_ONCE = 100


def register(tools: Tools) -> dict[str, Callable[..., Any]]:
    """Declare the workflows to DBOS and give them by name."""

    @DBOS.step(name="reconcile_namespace", retries_allowed=True, max_attempts=10, interval_seconds=1.0)
    def reconcile_namespace(namespace_id: int) -> None:
        reconcile(tools, namespace_id)

    @DBOS.workflow(name=RECONCILE)
    def reconcile_whole_objects(namespace_id: int) -> None:
        """Begin to write what came to a stage of the namespace, and condemn what left the last."""
        reconcile_namespace(namespace_id)

    @DBOS.step(name="write_parts", retries_allowed=True, max_attempts=10, interval_seconds=2.0)
    def write_parts(row_id: int) -> bool:
        return write(tools, row_id)

    @DBOS.step(name="record_whole", retries_allowed=True, max_attempts=10, interval_seconds=1.0)
    def record_whole(row_id: int, key: str, *, is_written: bool) -> None:
        record(tools, row_id, key, is_written=is_written)

    @DBOS.workflow(name=WRITE)
    def write_whole_object(row_id: int, key: str) -> None:
        """Put a file together under its key, and redirect downloads there."""
        record_whole(row_id, key, is_written=write_parts(row_id))

    @DBOS.step(name="sweep_whole", retries_allowed=True, max_attempts=3, interval_seconds=1.0)
    def sweep_whole() -> None:
        sweep(tools)

    @DBOS.workflow(name=SWEEP)
    def sweep_whole_objects(_scheduled: datetime, _context: Any) -> None:
        """Compare every namespace with its stages, and delete what was condemned long enough ago."""
        sweep_whole()

    return {RECONCILE: reconcile_whole_objects, WRITE: write_whole_object, SWEEP: sweep_whole_objects}


def reconcile(tools: Tools, namespace_id: int) -> None:
    """Have the namespace's staged files written, and the others condemned."""
    with tools.database.transaction() as session:
        whole_objects.reconcile(session, namespace_id, now=now(session))


def write(tools: Tools, row_id: int) -> bool:
    """Write the file of a pending row. False if its bytes are not what was published."""
    try:
        with tools.database.transaction(read_only=True) as session:
            file = whole_objects.source_of(session, row_id)
        if file is not None:
            whole_objects.write(tools.store, file)
    except (VersionDamagedError, ObjectMissingError):
        return False
    return True


def record(tools: Tools, row_id: int, key: str, *, is_written: bool) -> None:
    """Say so in the row; without a row the object is nobody's and goes."""
    with tools.database.transaction() as session:
        is_known = whole_objects.record(session, row_id, is_written=is_written, now=now(session))
    if not is_known:
        tools.store.delete(key)


def sweep(tools: Tools) -> None:
    """Look at everything once. Every part of it may end anywhere: the next sweep goes on."""
    with tools.database.transaction(read_only=True) as session:
        namespaces, live = whole_objects.namespaces(session), whole_objects.live_keys(session)
    lost = [live[key] for key in live.keys() - tools.store.head_many(live).keys()]
    for first in range(0, len(lost), _AT_ONCE):
        with tools.database.transaction() as session:
            whole_objects.condemn(session, lost[first : first + _AT_ONCE], now=now(session))
    for namespace_id in namespaces:
        reconcile(tools, namespace_id)
    while _delete_some(tools) == _AT_ONCE:
        pass
    for key, upload in whole_objects.unended(tools.store):
        with tools.database.transaction(read_only=True) as session:
            is_abandoned = whole_objects.is_abandoned(session, key, upload, now=now(session))
        if is_abandoned:
            tools.store.multipart.abort(upload.key, upload.upload_id)


def _delete_some(tools: Tools) -> int:
    with tools.database.transaction(read_only=True) as session:
        ttl = tools.config.url_ttl_s
        condemned = whole_objects.due(session, url_ttl_s=ttl, limit=_AT_ONCE, now=now(session))
    for _, key in condemned:
        tools.store.delete(key)
    with tools.database.transaction() as session:
        whole_objects.forget(session, [row_id for row_id, _ in condemned])
    return len(condemned)
