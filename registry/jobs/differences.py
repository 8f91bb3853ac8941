"""The workflow that measures how far apart two versions are, when somebody asks for it."""

from collections.abc import Callable
from typing import Any, Final

from dbos import DBOS

from registry.db.session import now
from registry.jobs.workflows import Tools
from registry.services import diffs, measuring
from registry.services.diffs import MEASURE

_BATCH: Final = 256 << 20
"""Bytes that a worker reads before it keeps what it found: all that a crash makes it read again."""


def register(tools: Tools) -> dict[str, Callable[..., Any]]:
    """Declare the workflow to DBOS and give it by name."""

    @DBOS.step(name="measure_tensors", retries_allowed=True, max_attempts=3, interval_seconds=2.0)
    def measure_tensors(a_id: int, b_id: int) -> int:
        with tools.database.transaction(read_only=True) as session:
            tasks = diffs.tasks(session, a_id, b_id)
        for batch in diffs.batches(tasks, _BATCH):
            found = measuring.distances(tools.store, batch)
            with tools.database.transaction() as session:
                diffs.record(session, found, now=now(session))
        return len(tasks)

    @DBOS.workflow(name=MEASURE)
    def measure_difference(a_id: int, b_id: int) -> None:
        """Read the changed tensors of two versions, and keep how far apart they are."""
        measure_tensors(a_id, b_id)

    return {MEASURE: measure_difference}
