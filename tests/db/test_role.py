"""The role that docs/operations.md gives to API and worker on PostgreSQL: everything works, and events only grow."""

import re
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import ProgrammingError

from registry.app import create_app
from registry.config import Config
from registry.db.session import Database
from registry.services import upkeep
from tests.support import ROOT
from tests.support.pushing import push
from tests.support.world import ADMIN_SECRET, T0, Http, emptied

PAGE = (ROOT / "docs/operations.md").read_text()
STATEMENTS = re.search(r"^```sql\n(CREATE ROLE .*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def database(postgres):
    return emptied(postgres)


@pytest.fixture
def role(database):
    assert STATEMENTS is not None
    name = f"app_{uuid.uuid4().hex[:8]}"
    with database.engine.begin() as connection:
        for statement in STATEMENTS[1].replace("registry_app", name).split(";\n"):
            connection.execute(text(statement))
    yield Database(
        make_url(database.url).set(username=name, password="of-the-app").render_as_string(hide_password=False)
    )
    with database.engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {name}"))
        connection.execute(text(f"DROP ROLE {name}"))


@pytest.fixture
def http(admin, role, s3_config, store):
    app = create_app(
        Config(database_url=role.url, s3_bucket=s3_config.bucket, s3_endpoint_url=s3_config.endpoint_url or "")
    )
    parts = app.extensions["registry"]
    app.extensions["registry"] = replace(parts, store=store)
    yield Http(app.test_client, ADMIN_SECRET)
    parts.database.dispose()
    role.dispose()


def test_the_application_works_and_cannot_change_what_it_wrote(http, role):
    assert push(http, "vision/yolo").version["number"] == 1
    for stage in ("staging", "production"):
        made = http.post(
            f"/models/vision/yolo/stages/{stage}/promotions", json={"version": 1}, headers={"Idempotency-Key": stage}
        )
        assert made.status_code == 201, made.text
    hook = http.post("/webhooks", json={"url": "https://example.com/", "namespace": "vision"})
    assert hook.status_code == 201, hook.text
    body = {"name": "edge", "follows": "vision/yolo@production"}
    consumer = http.post("/models/vision/yolo/consumers", json=body).json["id"]
    assert http.delete(f"/consumers/{consumer}").status_code == 204
    assert http.put("/models/vision/yolo/aliases/best-yet", json={"number": 1}).status_code == 200
    assert http.delete("/models/vision/yolo/aliases/best-yet").status_code == 204
    with role.transaction() as session:
        upkeep.forget_old_rows(session, now=T0 + timedelta(days=9999))
    assert http.get("/events/verify?namespace=vision").json["broken_at"] is None
    assert http.get("/events/head?namespace=vision").json["seq"] > 5
    for forbidden in (
        "UPDATE events SET actor = 'eve'",
        "DELETE FROM events",
        "TRUNCATE events CASCADE",
        "DELETE FROM chains",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "DROP TABLE events CASCADE",
    ):
        with (
            pytest.raises(ProgrammingError, match=r"permission denied|must be owner"),
            role.engine.begin() as connection,
        ):
            connection.execute(text(forbidden))
