"""Engines and transactions: the only way in and out of the database.

SQLite takes one writer at a time and answers "locked" to a transaction that read first and writes later, so a writing
transaction there begins IMMEDIATE, and threads of one process queue on a lock instead of polling the file.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from registry.domain.errors import ExhaustedError, InvalidError, UnavailableError

_CLOCK = select(func.clock_timestamp())

WRITE = "registry_write"
"""Execution option that makes a SQLite transaction begin IMMEDIATE."""

# Connections that never leave autocommit have nothing to undo when they go back to their pool.
_READER: Mapping[str, Any] = MappingProxyType({"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None})

_FULL = ("database or disk is full", "disk i/o error", "could not extend file", "no space left")
_PG_DOWN = ("08", "57", "58")  # connection exceptions, operator intervention, system error
_PG_BUSY = ("40", "55", "53")  # rollback by the server, lock not available, too many connections


class DatabaseUnavailableError(UnavailableError):
    """The database does not answer."""

    code = "DATABASE_UNAVAILABLE"
    remedy = "Try again shortly; if it stays, the operator should look at /readyz and the server's log."


class DatabaseBusyError(UnavailableError):
    """Too many writers at once; nothing was changed."""

    code = "DATABASE_BUSY"
    remedy = "Repeat the request after the seconds in Retry-After."


class DatabaseFullError(ExhaustedError):
    """The database's disk is full; nothing was changed."""

    code = "DATABASE_FULL"
    remedy = "The operator must free disk space; then repeat the request."


class UnstorableValueError(InvalidError):
    """A value the database cannot hold, such as text with a NUL or a number out of range."""

    code = "UNSTORABLE_VALUE"
    remedy = "Leave NUL characters out of texts, and keep whole numbers below 2^63."


class Database:
    """An engine and, on SQLite, the queue of this process's writers."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        """Connect lazily; nothing is opened until the first transaction."""
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        self.engine = _sqlite_engine(url, pool_size) if self.is_sqlite else _postgres_engine(url, pool_size)
        self.reader = _sqlite_reader(url, pool_size) if self.is_sqlite else _postgres_engine(url, pool_size, _READER)
        self._writers = threading.Lock() if self.is_sqlite else nullcontext()

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Session]:
        """One transaction: commits, or rolls back on any exception.

        Raises DatabaseUnavailableError, DatabaseBusyError, DatabaseFullError in place of the driver's.
        """
        options: dict[str, Any] = {"postgresql_readonly": True} if read_only else {WRITE: True}
        with nullcontext() if read_only else self._writers:
            session = Session(self.engine, expire_on_commit=False, autoflush=True)
            try:
                session.connection(execution_options=options)
                yield session
                session.commit()
            except (DBAPIError, PoolTimeoutError) as error:
                session.rollback()
                raise narrowed(error) from error
            except BaseException:
                session.rollback()
                raise
            finally:
                session.close()

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection for single reading statements: no BEGIN, no COMMIT and no ROLLBACK travel to the server.

        Raises what `transaction` raises.
        """
        try:
            with self.reader.connect() as connection:
                yield connection
        except (DBAPIError, PoolTimeoutError) as error:
            raise narrowed(error) from error

    def dispose(self) -> None:
        """Close every connection."""
        self.engine.dispose()
        self.reader.dispose()


def narrowed(error: Exception) -> Exception:
    """Our error for a driver's, by the driver's code; an unknown one comes back as it is."""
    if isinstance(error, PoolTimeoutError):
        return DatabaseBusyError("Every database connection is in use.")
    if not isinstance(error, DBAPIError):
        return error
    if isinstance(error, DataError):
        return UnstorableValueError("A value in the request cannot be stored.")
    said = str(error.orig).lower()
    if "no such savepoint" in said and (before := _said_before(error)) is not None:
        return narrowed(before)
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if any(sign in said for sign in _FULL) or state == "53100":
        return DatabaseFullError("The database has no disk space left.")
    if "database is locked" in said or state.startswith(_PG_BUSY):
        return DatabaseBusyError("The database is busy with other writers.")
    if error.connection_invalidated or state.startswith(_PG_DOWN) or "unable to open database" in said:
        return DatabaseUnavailableError("The database does not answer.")
    if type(error.orig).__name__ == "OperationalError" and not state:
        return DatabaseUnavailableError("The database does not answer.")
    return error


def _said_before(error: BaseException) -> DBAPIError | None:
    """The error while another was handled: SQLite ends the transaction of a full disk itself, savepoints and all."""
    found = error.__context__
    while found is not None and not isinstance(found, DBAPIError):
        found = found.__context__
    return found


def now(session: Session) -> datetime:
    """The database's clock, aware. On SQLite that is this host's clock, on PostgreSQL the server's."""
    if session.get_bind().dialect.name == "sqlite":
        return datetime.now(UTC)
    at: datetime = session.connection().execute(_CLOCK).scalar_one()
    return at


def _postgres_engine(url: str, pool_size: int, options: Mapping[str, Any] = MappingProxyType({})) -> Engine:
    return create_engine(
        url,
        **options,
        pool_size=pool_size,
        hide_parameters=True,  # an error in the log must not carry what a user sent
        max_overflow=pool_size,
        pool_timeout=20,
        pool_pre_ping=False,
        pool_recycle=1800,
        connect_args={
            "connect_timeout": 5,
            "options": "-c lock_timeout=20000 -c statement_timeout=60000 -c idle_in_transaction_session_timeout=60000",
        },
    )


def _sqlite_engine(url: str, pool_size: int) -> Engine:
    engine = _sqlite_reader(url, pool_size, {})
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _sqlite_reader(url: str, pool_size: int, options: Mapping[str, Any] = _READER) -> Engine:
    engine = create_engine(
        url,
        **options,
        pool_size=pool_size,
        hide_parameters=True,  # an error in the log must not carry what a user sent
        max_overflow=pool_size * 4,
        pool_timeout=60,
        connect_args={"timeout": 30, "check_same_thread": False},
    )
    event.listen(engine, "connect", _configure_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 30000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get(WRITE)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
