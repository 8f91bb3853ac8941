"""Alembic's entry: one transaction a migration, timeouts that spare the writers of a live system, one run at a time."""

from typing import Literal

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.schema import SchemaItem

import registry.db.tables  # noqa: F401 - declares them
from registry.db.base import Base, UtcDateTime

_ADVISORY_LOCK = 7_223_001


def _is_ours(item: SchemaItem, name: str | None, kind: str, reflected: bool, compare_to: SchemaItem | None) -> bool:  # noqa: FBT001 - Alembic's signature
    """The workflow engine keeps tables beside ours on SQLite: a reflected table without a twin is not ours."""
    del item, name
    return not (kind == "table" and reflected and compare_to is None)


def _rendered(kind: str, item: object, _autogen: object) -> str | Literal[False]:
    """A migration must not change when our own types do."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def _run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET lock_timeout = '4s'"))
        connection.execute(text("SET statement_timeout = '60s'"))
        connection.execute(text(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})"))
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        transaction_per_migration=True,
        compare_type=True,
        include_object=_is_ours,
        render_item=_rendered,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_unlock({_ADVISORY_LOCK})"))
        connection.commit()


_run(context.config.attributes["connection"])
