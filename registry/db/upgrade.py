"""Bring a database to the schema this code needs: ours by Alembic, then the workflow engine's own."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from dbos import DBOS
from sqlalchemy import Connection, inspect

from registry.db.queue import SCHEMA
from registry.db.session import Database


def upgrade(database: Database, revision: str = "head") -> None:
    """Migrate to `revision`, then run DBOS's migrations. Safe to repeat; two at once wait for each other."""
    with database.engine.connect() as connection:
        settings = _alembic(connection_url=database.url)
        settings.attributes["connection"] = connection
        command.upgrade(settings, revision)
    DBOS.migrate(database.url, schema=SCHEMA)


def downgrade(database: Database, revision: str) -> None:
    """Migrate our own tables back to `revision` (`base` for none)."""
    with database.engine.connect() as connection:
        settings = _alembic(connection_url=database.url)
        settings.attributes["connection"] = connection
        command.downgrade(settings, revision)


def is_current(connection: Connection) -> bool:
    """Whether both schemas are at the heads this code was written for."""
    found = MigrationContext.configure(connection).get_current_heads()
    schema = None if connection.dialect.name == "sqlite" else SCHEMA
    has_workflows = inspect(connection).has_table("workflow_status", schema=schema)
    return set(found) == set(_heads()) and has_workflows


@cache
def _heads() -> tuple[str, ...]:
    return tuple(ScriptDirectory.from_config(_alembic(connection_url="")).get_heads())


def _alembic(*, connection_url: str) -> AlembicConfig:
    settings = AlembicConfig()
    settings.set_main_option("script_location", str(_migrations()))
    settings.set_main_option("sqlalchemy.url", connection_url.replace("%", "%%"))
    return settings


def _migrations() -> Path:
    """The wheel carries the migrations inside the package; a checkout has them at its top."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"
