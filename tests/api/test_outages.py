"""What the server stands on is gone or full: 503 and 507 with a stable code, and nothing changed."""

from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event

from registry.app import create_app
from registry.config import Config
from registry.db.session import Database
from registry.db.upgrade import upgrade
from registry.services import accounts
from tests.support.databases import fresh_postgres
from tests.support.postgres import start
from tests.support.pushing import artifact, digest, push, weights
from tests.support.refusals import refusal, unchanged
from tests.support.world import ADMIN_SECRET, T0, Http, code

CLOSED = {"s3_endpoint_url": "http://127.0.0.1:1", "s3_access_key": "x", "s3_secret_key": "y"}  # nothing listens there
STAGE = "/models/yolo/stages/production"
READS = ("/models/yolo", "/models/yolo/versions/1", "/resolve?ref=yolo@production", f"{STAGE}/history", "/storage")
DOWNLOAD = "/models/yolo/versions/1/artifacts/model.safetensors?redirect=0"


@pytest.fixture
def yolo(http):
    """A model with two versions, the first in production."""
    push(http, "yolo")
    push(http, "yolo", {"model.safetensors": weights(2.0)})
    assert http.post(f"{STAGE}/promotions", json={"version": 1}).status_code == 201


@pytest.fixture
def serve():
    """Makes another application with other settings, and gives a client of it."""
    made = []

    def serve(**settings):
        app = create_app(Config(**settings))
        made.append(app.extensions["registry"].database)
        return Http(lambda: FlaskClient(app, app.response_class), ADMIN_SECRET), made[-1]

    yield serve
    for database in made:
        database.dispose()


@pytest.fixture
def storeless(app, serve, yolo):
    """The same registry, whose store cannot be reached."""
    return serve(database_url=app.extensions["registry"].config.database_url, s3_bucket="gone", **CLOSED)[0]


def test_without_the_store_what_needs_it_is_refused(database, storeless):
    new = {"digest": digest(b"new"), "size": 3}
    upload = storeless.post("/uploads", json={"model": "yolo", "segments": [new]}).json["id"]
    commit = {"artifacts": [artifact("model.safetensors", weights())], "new": True}
    with unchanged(database, but=("uploads",)):  # which live longer from every request on
        for refused in (
            storeless.patch(f"/uploads/{upload}/segments", json={"digests": [new["digest"]]}),
            storeless.post(f"/uploads/{upload}/commit", json=commit),
            storeless.get(DOWNLOAD),
        ):
            assert refusal(refused) == (503, "STORAGE_UNAVAILABLE")


def test_without_the_store_everything_else_goes_on(http, storeless):
    for path in READS:
        assert storeless.get(path).json == http.get(path).json
    assert storeless.post(f"{STAGE}/promotions", json={"version": 2}).status_code == 201
    assert storeless.get("/healthz").status_code == 200
    ready = storeless.get("/readyz")
    assert (ready.status_code, ready.json["checks"]["database"], "Retry-After" in ready.headers) == (503, "ok", True)
    assert "STORAGE_UNAVAILABLE" in ready.json["checks"]["storage"]


def test_a_copy_that_the_store_cannot_make_publishes_nothing_and_succeeds_later(http, storeless):
    http.post("/namespaces", json={"name": "other"})
    refused = storeless.post("/models/yolo/versions/1/copy", json={"to": "other/yolo"})
    assert refusal(refused) == (503, "STORAGE_UNAVAILABLE")
    assert code(http.get("/models/other/yolo/versions/1"))[0] == 404
    assert http.post("/models/yolo/versions/1/copy", json={"to": "other/yolo"}).status_code == 201


def test_a_store_without_room_takes_no_uploads_and_still_gives(app, serve, database, yolo):
    known = app.extensions["registry"].config
    full, _ = serve(
        database_url=known.database_url,
        s3_bucket=known.s3_bucket,
        s3_endpoint_url=known.s3_endpoint_url,
        s3_access_key=known.s3_access_key,
        s3_secret_key=known.s3_secret_key,
        s3_local_path=Path("/proc"),  # a file system without a free byte
    )
    new = [{"digest": digest(b"new"), "size": 3}]
    with unchanged(database):
        assert refusal(full.post("/uploads", json={"model": "yolo", "segments": new})) == (507, "STORAGE_FULL")
    assert full.get(DOWNLOAD).data == weights()


def expect_no_database(http):
    for path in ("/whoami", "/models", "/resolve?ref=yolo"):
        assert refusal(http.get(path)) == (503, "DATABASE_UNAVAILABLE")
    assert refusal(http.post("/models", json={"name": "m"})) == (503, "DATABASE_UNAVAILABLE")
    ready = http.get("/readyz")
    assert (ready.status_code, "Retry-After" in ready.headers) == (503, True)
    assert "DATABASE_UNAVAILABLE" in ready.json["checks"]["database"]
    assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "url", ["sqlite:////nonexistent/registry.db", "postgresql+psycopg://nobody@127.0.0.1:1/registry"]
)
def test_without_a_database_every_request_is_refused(serve, url):
    expect_no_database(serve(database_url=url, **CLOSED)[0])


def test_a_postgresql_that_was_stopped_is_said_and_found_again(serve, tmp_path):
    server = start(tmp_path / "data")
    url = fresh_postgres(server.get_uri().replace("postgresql://", "postgresql+psycopg://"))
    http, database = serve(database_url=url, **CLOSED)
    upgrade(database)
    with database.transaction() as session:
        accounts.bootstrap(session, ADMIN_SECRET, now=T0)
    assert http.post("/models", json={"name": "yolo"}).status_code == 201
    server.cleanup()  # the connections in the pool are dead now
    expect_no_database(http)
    server = start(tmp_path / "data")
    assert http.get("/models/yolo").json["name"] == "default/yolo"
    database.dispose()
    server.cleanup()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_database_without_room_refuses_writes_and_still_reads(app, http, database, yolo):
    known: Database = app.extensions["registry"].database
    known.dispose()

    @event.listens_for(known.engine, "connect")
    def confine(connection, record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    large = {"description": "x" * 9_000}
    made = 0
    while (answer := http.post("/models", json={"name": f"m{made}"} | large)).status_code == 201:
        made += 1
        assert made < 50
    assert refusal(answer) == (507, "DATABASE_FULL")
    many = [{"digest": digest(b"%d" % number), "size": 2} for number in range(500)]
    with unchanged(database):
        for path, body in (
            ("/models", {"name": "another"} | large),
            ("/uploads", {"model": "yolo", "segments": many}),
            ("/models/yolo/versions/1/metrics", {"metrics": [{"name": f"m{at}", "value": 1} for at in range(500)]}),
        ):
            assert refusal(http.post(path, json=body)) == (507, "DATABASE_FULL"), path
    assert len(http.items("/models")) == made + 1
    assert http.get("/resolve?ref=yolo@production").json["number"] == 1
    event.remove(known.engine, "connect", confine)
    known.dispose()
    assert http.post("/models", json={"name": "another"} | large).status_code == 201
