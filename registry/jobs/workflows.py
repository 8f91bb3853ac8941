"""The workflows. Each step may run again after a crash, so each is safe to repeat."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dbos import DBOS

from registry.config import Config
from registry.db.session import Database, now
from registry.jobs import verification
from registry.services import upkeep, uploads
from registry.services.integrity import VERIFY
from registry.storage.s3 import Store

EXPIRE = "expire_uploads"
_UPLOADS_A_RUN = 500


@dataclass(frozen=True, slots=True)
class Tools:
    """What the workflows work with; made by `worker.run`."""

    config: Config
    database: Database
    store: Store


def register(tools: Tools) -> dict[str, Callable[..., Any]]:
    """Declare every workflow to DBOS and give them by name."""

    @DBOS.step(name="prove_files", retries_allowed=True, max_attempts=10, interval_seconds=2.0)
    def prove_files(version_id: int) -> dict[str, Any]:
        return verification.prove(tools.database, tools.store, version_id)

    @DBOS.step(name="record_integrity", retries_allowed=True, max_attempts=10, interval_seconds=1.0)
    def record_integrity(version_id: int, proved: dict[str, Any]) -> None:
        verification.record(tools.database, version_id, proved)

    @DBOS.workflow(name=VERIFY)
    def verify_version(version_id: int) -> None:
        """Prove the whole-file digests of a version that was just published, and measure its tensors."""
        record_integrity(version_id, prove_files(version_id))

    @DBOS.step(name="close_expired", retries_allowed=True, max_attempts=3, interval_seconds=1.0)
    def close_expired() -> int:
        with tools.database.transaction() as session:
            at = now(session)
            upkeep.forget_old_rows(session, now=at)
            return uploads.expire(session, limit=_UPLOADS_A_RUN, now=at)

    @DBOS.workflow(name=EXPIRE)
    def expire_uploads(_scheduled: datetime, _context: Any) -> None:
        """Close uploads whose time is over, and drop rows that only matter for a day."""
        while close_expired() == _UPLOADS_A_RUN:
            pass

    return {VERIFY: verify_version, EXPIRE: expire_uploads}
