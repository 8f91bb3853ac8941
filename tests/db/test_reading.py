"""Reads that go to the driver directly: the same rows as through SQLAlchemy, the same errors, the same indexes."""

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from sqlalchemy import bindparam, select, text

from registry.db.reading import Reading
from registry.db.session import DatabaseUnavailableError
from registry.db.tables import Token, User
from registry.domain.references import parse_reference
from registry.services import accounts, actors, versions
from registry.services.actors import SYSTEM, Actor
from tests.support.factories import make_model, make_version
from tests.support.world import ADMIN_SECRET


class Found(NamedTuple):
    name: str
    actions: list[str]
    expires_at: datetime | None
    is_admin: bool


STATEMENT = (
    select(Token.name, Token.actions, Token.expires_at, User.is_admin)
    .join(User, User.id == Token.user_id)
    .where(User.name == bindparam("user"), Token.revoked_at.is_(None))
    .order_by(Token.id)
    .limit(5)
)


def test_rows_are_those_of_the_connection_itself(database, admin):
    with database.transaction() as session:
        user = accounts.create_user(session, SYSTEM, "ana", now=datetime.now(UTC))
        owner = Actor(user_id=user.id, name=user.name)
        for days in (None, 3):
            accounts.create_token(
                session, owner, f"t{days}", scope=owner.scope, now=datetime.now(UTC), expires_in_days=days
            )
    with database.autocommit() as connection:
        found = Reading(STATEMENT, Found).rows(connection, user="ana")
        assert [tuple(row) for row in found] == [
            tuple(row) for row in connection.execute(STATEMENT, {"user": "ana"})
        ]  # fmt: skip
    assert [row.name for row in found] == ["tNone", "t3"]
    assert found[0].is_admin is False
    assert found[1].expires_at is not None
    assert found[1].expires_at - datetime.now(UTC) > timedelta(days=2)


def test_it_reads_what_its_own_transaction_wrote(database, admin):
    with database.transaction() as session:
        session.execute(text("UPDATE tokens SET name = 'changed'"))
        found = Reading(STATEMENT, Found).rows(session.connection(), user=admin.name)
        assert [row.name for row in found] == ["changed"]


def test_a_connection_that_was_lost_is_said_so_and_replaced(database, admin):
    if database.is_sqlite:
        pytest.skip("SQLite has no connection to lose")
    with database.autocommit() as connection:
        actors.authenticate(connection, ADMIN_SECRET)
    with database.transaction() as session:
        session.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                 "WHERE datname = current_database() AND pid <> pg_backend_pid()")
        )  # fmt: skip
    with pytest.raises(DatabaseUnavailableError), database.autocommit() as connection:
        actors.authenticate(connection, ADMIN_SECRET)
    with database.autocommit() as connection:
        assert actors.authenticate(connection, ADMIN_SECRET).name == admin.name
    database.dispose()  # other connections of the pool were lost as well, and the next test is given this database


@pytest.mark.parametrize("selector", ["", ":2", "@production", "@sha256"])
def test_a_glance_sees_what_resolving_finds_and_scans_no_table(database, admin, selector):
    with database.transaction() as session:
        model = make_model(session)
        made = [make_version(session, model) for _ in range(3)]
        session.execute(
            text("INSERT INTO pointers (model_id, name, kind, number, seq, moved_by, moved_at) "
                 "VALUES (:model, 'production', 'stage', 2, 1, 'ana', CURRENT_TIMESTAMP)"),
            {"model": model.id},
        )  # fmt: skip
    reference = parse_reference(f"m{selector}:{made[0].digest}" if selector == "@sha256" else f"m{selector}")
    with database.autocommit() as connection:
        glanced = versions.glance(connection, admin, reference)
    with database.transaction() as session:
        assert glanced == versions.meant(versions.resolve(session, admin, reference))
    assert glanced is not None
    assert glanced.number == {"": 3, ":2": 2, "@production": 2, "@sha256": 1}[selector]


@pytest.mark.parametrize(
    ("reading", "values"),
    [
        (versions._BY_NUMBER, {"number": 2}),
        (versions._BY_DIGEST, {"digest": "0" * 64}),
        (versions._BY_POINTER, {"pointer": "production"}),
        (versions._NEWEST, {}),
    ],
    ids=["number", "digest", "pointer", "newest"],
)
def test_no_glance_scans_the_versions(database, admin, reading, values):
    sent = {"namespace": "default", "model": "m", **values}
    with database.autocommit() as connection:
        assert reading.rows(connection, **sent) == []
        compiled = reading._compiled[connection.dialect.name]
        if not database.is_sqlite:  # small tables are scanned because that is cheaper: ask whether an index could serve
            connection.exec_driver_sql("SET enable_seqscan = off")
        prefix = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        cursor = connection.connection.cursor()
        cursor.execute(prefix + compiled.sql, {**compiled.constants, **sent})
        plan = [str(row[-1]) for row in cursor.fetchall()]
        cursor.close()
        connection.invalidate()
    assert plan
    assert [line for line in plan if re.search(r"SCAN versions|Seq Scan on versions", line)] == []
