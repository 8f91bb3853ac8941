"""Work for the workers, enqueued in the transaction that makes it necessary: committed together or not at all."""

import threading
import weakref

from dbos import DBOSClient, DBOSPortableJSONSerializer
from sqlalchemy import Engine
from sqlalchemy.orm import Session

QUEUE = "registry"
SCHEMA = "dbos"
"""PostgreSQL schema of DBOS's own tables; SQLite has none and keeps them beside ours."""

_clients: weakref.WeakKeyDictionary[Engine, DBOSClient] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def enqueue(session: Session, workflow: str, *args: str | int, key: str) -> None:
    """Have a worker run `workflow(*args)` once this transaction has committed, at most once for each `key`."""
    client = _client(session.get_bind().engine)
    client.enqueue_in_transaction(
        session, {"workflow_name": workflow, "queue_name": QUEUE, "workflow_id": f"{workflow}:{key}"}, *args
    )


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
