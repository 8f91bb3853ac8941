"""Databases of each kind: empty ones, and migrated ones that cost a file copy or a CREATE DATABASE."""

import uuid
from pathlib import Path

from sqlalchemy import create_engine, make_url


def fresh_sqlite(folder: Path) -> str:
    """URL of a file that does not exist yet."""
    return f"sqlite:///{folder}/{uuid.uuid4().hex}.db"


def fresh_postgres(server_url: str, *, template: str | None = None) -> str:
    """URL of a new database on the server, empty or a copy of `template`."""
    name = f"t_{uuid.uuid4().hex}"
    engine = create_engine(server_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
    engine.dispose()
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)
