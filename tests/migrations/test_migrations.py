import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

import registry.db.tables  # noqa: F401 - declares them
from registry.db.base import Base
from registry.db.queue import SCHEMA
from registry.db.session import Database
from registry.db.upgrade import downgrade, is_current, upgrade
from tests.support.databases import fresh_postgres, fresh_sqlite

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path):
    if request.param == "sqlite":
        url = fresh_sqlite(tmp_path)
    else:
        url = fresh_postgres(request.getfixturevalue("postgres_url"))
    database = Database(url)
    yield database
    database.dispose()


def _differences(database):
    with database.engine.connect() as connection:
        ours = {
            "include_object": lambda _item, _name, kind, reflected, twin: (
                not (kind == "table" and reflected and twin is None)
            )
        }
        return compare_metadata(MigrationContext.configure(connection, opts=ours), Base.metadata)


def _is_current(database):
    with database.engine.connect() as connection:
        return is_current(connection)


def test_migrating_an_empty_database_gives_exactly_the_declared_tables(empty):
    upgrade(empty)
    assert _differences(empty) == []
    assert _is_current(empty)


def test_an_empty_database_is_not_current(empty):
    assert not _is_current(empty)


def test_migrating_twice_changes_nothing(empty):
    upgrade(empty)
    upgrade(empty)
    assert _is_current(empty)


def test_migrating_down_leaves_no_table_of_ours(empty):
    upgrade(empty)
    downgrade(empty, "base")
    left = set(inspect(empty.engine).get_table_names()) - {"alembic_version"}
    assert not left & set(Base.metadata.tables)
    upgrade(empty)
    assert _is_current(empty)


def test_no_table_of_ours_takes_a_name_of_the_workflow_engine(empty):
    upgrade(empty)
    schema = None if empty.is_sqlite else SCHEMA
    theirs = set(inspect(empty.engine).get_table_names(schema=schema)) - set(Base.metadata.tables)
    assert "workflow_status" in theirs
    assert not theirs & set(Base.metadata.tables)


def test_a_database_without_the_workflow_engines_tables_is_not_current(empty):
    upgrade(empty)
    with empty.engine.begin() as connection:
        name = "workflow_status" if empty.is_sqlite else f"{SCHEMA}.workflow_status"
        connection.exec_driver_sql(f"DROP TABLE {name}{'' if empty.is_sqlite else ' CASCADE'}")
    assert not _is_current(empty)


def test_a_built_wheel_carries_the_migrations_and_no_test(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("weight_registry-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "registry/_migrations/env.py" in names
    assert "registry/_migrations/versions/0001_the_first_schema.py" in names
    assert not [name for name in names if name.startswith("tests/")]
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    script = (
        "from registry.db.session import Database; from registry.db.upgrade import upgrade, is_current\n"
        "import pathlib, registry.db.upgrade as u\n"
        f"assert u._migrations().parent.parent == pathlib.Path({str(installed)!r})\n"
        f"d = Database('sqlite:///{tmp_path}/wheel.db'); upgrade(d); assert is_current(d.engine.connect())"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env={"PYTHONPATH": str(installed)})
