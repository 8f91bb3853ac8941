"""Work for the workers, enqueued in the transaction that makes it necessary: committed together or not at all."""

import threading
import weakref
from collections.abc import Sequence

from dbos import DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions
from sqlalchemy import Engine, column, select, table
from sqlalchemy.orm import Session

QUEUE = "registry"
SLOW_QUEUE = "registry-slow"
"""For work that people ask for and that may read all of a version: one at a time, beside what publications need."""
SCHEMA = "dbos"
"""PostgreSQL schema of DBOS's own tables; SQLite has none and keeps them beside ours."""

_IN_FLIGHT = frozenset({"ENQUEUED", "PENDING", "DELAYED"})

_clients: weakref.WeakKeyDictionary[Engine, DBOSClient] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def enqueue(
    session: Session, workflow: str, *args: str | int, key: str, queue: str = QUEUE, delay_s: float = 0
) -> None:
    """Have a worker run `workflow(*args)` once this transaction has committed, at most once for each `key`."""
    client = _client(session.get_bind().engine)
    options: EnqueueOptions = {
        "workflow_name": workflow, "queue_name": queue, "workflow_id": f"{workflow}:{key}"
    }  # fmt: skip
    if delay_s:
        options["delay_seconds"] = delay_s
    client.enqueue_in_transaction(session, options, *args)


def runs(session: Session, workflow: str, *, keys: Sequence[str]) -> dict[str, bool]:
    """Those of the keys under which the workflow was enqueued, and whether it is still waiting or running."""
    schema = None if session.get_bind().dialect.name == "sqlite" else SCHEMA
    rows = table("workflow_status", column("workflow_uuid"), column("status"), schema=schema)
    asked = {f"{workflow}:{key}": key for key in keys}
    found = session.execute(select(rows.c.workflow_uuid, rows.c.status).where(rows.c.workflow_uuid.in_(asked)))
    return {asked[name]: status in _IN_FLIGHT for name, status in found}


def _client(engine: Engine) -> DBOSClient:
    with _lock:
        client = _clients.get(engine)
        if client is None:
            client = DBOSClient(
                system_database_engine=engine,
                dbos_system_schema=SCHEMA,
                serializer=DBOSPortableJSONSerializer(),  # the default one pickles
                lazy=True,
            )
            _clients[engine] = client
        return client
