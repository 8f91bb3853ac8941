"""Servers that tests stand on, and the registry on top. Each is real; each starts only if a test asks for it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from registry.config import Config
from registry.db.session import Database
from registry.request import Parts
from registry.services import accounts
from registry.services.actors import Actor
from registry.storage.s3 import Store, StoreConfig
from tests.support.postgres import postgres_database
from tests.support.seaweed import seaweed_store
from tests.support.world import ADMIN_SECRET, T0, Http, People, emptied, migrated, sqlite_copy


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of this run see."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def s3_config(shared_folder: Path) -> Iterator[StoreConfig]:
    """A live bucket of this worker."""
    with seaweed_store(shared_folder / "seaweedfs") as config:
        yield config


@pytest.fixture(scope="session")
def postgres_url(shared_folder: Path) -> Iterator[str]:
    """A database of this worker."""
    with postgres_database(shared_folder / "postgres") as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file of this worker, never opened again."""
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    with migrated(f"sqlite:///{file}"):
        pass
    return file


@pytest.fixture(scope="session")
def postgres(postgres_url: str) -> Iterator[Database]:
    """A migrated PostgreSQL database of this worker."""
    with migrated(postgres_url) as database:
        yield database


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty registry, once on each kind of database."""
    if request.param == "postgres":
        yield emptied(request.getfixturevalue("postgres"))
        return
    copy = Database(sqlite_copy(request.getfixturevalue("sqlite_template"), tmp_path))
    yield copy
    copy.dispose()


@pytest.fixture
def admin(database: Database) -> Actor:
    """The bootstrapped administrator; with `default` the only thing there is."""
    with database.transaction() as session:
        accounts.bootstrap(session, ADMIN_SECRET, now=T0)
    return People(database).authenticated(ADMIN_SECRET)


@pytest.fixture
def session(database: Database, admin: Actor) -> Iterator[Session]:
    """One writing transaction, rolled back in the end."""
    with database.transaction() as session:
        yield session
        session.rollback()


@pytest.fixture
def people(request: pytest.FixtureRequest, database: Database, admin: Actor) -> People:
    """Makes users with roles and tokens."""
    inside = "session" in request.fixturenames
    return People(database, request.getfixturevalue("session") if inside else None)


@pytest.fixture
def make_actor(people: People) -> Callable[..., Actor]:
    """`make_actor("ana", "writer", "vision")` gives an actor; user, namespace and grant are created if new."""
    return people.actor


@pytest.fixture
def make_token(people: People) -> Callable[..., str]:
    """The same, giving the secret of the actor's token."""
    return people.secret


@pytest.fixture(scope="session")
def store(s3_config: StoreConfig) -> Store:
    """The one store of all applications of this worker: each of its own would read the vendor's models anew."""
    return Store(s3_config)


@pytest.fixture
def app(database: Database, admin: Actor, s3_config: StoreConfig, store: Store) -> Iterator[Flask]:
    """The application on that database and a live bucket."""
    from registry.app import create_app  # tests of the rules need not load every view

    app = create_app(
        Config(
            database_url=database.url,
            s3_bucket=s3_config.bucket,
            s3_endpoint_url=s3_config.endpoint_url or "",
            s3_region=s3_config.region,
            s3_access_key=s3_config.access_key or "",
            s3_secret_key=s3_config.secret_key or "",
            admin_token=ADMIN_SECRET,
        )
    )
    parts: Parts = app.extensions["registry"]
    app.extensions["registry"] = replace(parts, store=store)
    yield app
    parts.database.dispose()


@pytest.fixture
def http(app: Flask) -> Http:
    """A client of the API: `http.get("/models", token=…)`, by default as the administrator."""
    return Http(app.test_client, ADMIN_SECRET)
