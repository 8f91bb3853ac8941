"""The worker process: runs the workflows that requests enqueued, and the scheduled ones, and delivers to webhooks."""

import signal
import threading

import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer

from registry.config import Config
from registry.db.queue import QUEUE, SCHEMA, SLOW_QUEUE
from registry.db.session import Database
from registry.domain.targets import Allowed
from registry.jobs import decisions, differences, whole_objects
from registry.jobs.decisions import EXPIRE_PROMOTIONS
from registry.jobs.deliver import Dispatcher
from registry.jobs.whole_objects import SWEEP
from registry.jobs.workflows import EXPIRE, Tools, register
from registry.services.whole_objects import QUEUE as WHOLE_QUEUE
from registry.storage.s3 import Store

log = structlog.get_logger()

_CONCURRENCY = 2
_EVERY_MINUTE = "* * * * *"
_EVERY_FIVE_MINUTES = "*/5 * * * *"
_EVERY_TEN_MINUTES = "3-59/10 * * * *"


def run(config: Config, store: Store, *, stop: threading.Event | None = None) -> int:
    """Work until SIGINT or SIGTERM (or `stop`); gives the exit code.

    Several workers may run on one database. All share one executor name and version: whichever starts takes over what
    a dead one left, and every step is safe to repeat.
    """
    ended = stop or threading.Event()
    if stop is None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
    database = Database(config.database_url)
    settings: DBOSConfig = {
        "name": "weight-registry",
        "system_database_url": config.database_url,
        "dbos_system_schema": SCHEMA,
        "application_version": "1",
        "serializer": DBOSPortableJSONSerializer(),  # the default one pickles
        "run_migrations": False,
        "log_level": "WARNING",
    }
    DBOS(config=settings)
    tools = Tools(config, database, store)
    workflows = (
        register(tools) | differences.register(tools) | whole_objects.register(tools) | decisions.register(tools)
    )
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=_CONCURRENCY)
    DBOS.register_queue(SLOW_QUEUE, worker_concurrency=1)
    DBOS.register_queue(WHOLE_QUEUE, worker_concurrency=1)
    DBOS.apply_schedules(
        [
            {"schedule_name": name, "workflow_fn": workflows[name], "schedule": when, "context": None}
            for name, when in (
                (EXPIRE, _EVERY_FIVE_MINUTES),
                (SWEEP, _EVERY_TEN_MINUTES),
                (EXPIRE_PROMOTIONS, _EVERY_MINUTE),
            )
        ]
    )
    with Dispatcher(database, Allowed.of(config.webhook_allow)).running():
        log.info("worker ready")
        ended.wait()
    DBOS.destroy(workflow_completion_timeout_sec=5)
    database.dispose()
    return 0
