"""Lists at 10,000 versions: no query more for a longer list, every query by an index, page 100 read like page 1."""

import re
from contextlib import contextmanager

import pytest
from sqlalchemy import event, insert, text

from registry.db.tables import Metric, Version
from tests.support.factories import make_model
from tests.support.world import T0

VERSIONS = 10_000
MODEL = "/models/default/m"

LISTS = (
    f"{MODEL}/versions",
    f"{MODEL}/versions?kind=release",
    f"{MODEL}/versions?state=trashed",
    "/models",
    f"{MODEL}/stages/production/history",
    f"{MODEL}/versions/5000/metrics",
    f"{MODEL}/versions/5000/lineage",
    f"{MODEL}/versions/5000/artifacts",
    f"{MODEL}/aliases",
    "/namespaces",
    "/users",
    "/tokens",
    "/events?namespace=default",
)


@pytest.fixture
def many(app, database):
    """10,000 versions with two metrics each, one of them on a stage."""
    with database.transaction() as session:
        model = make_model(session)
        session.execute(insert(Version), [
            {"model_id": model.id, "number": number, "digest": f"{number:064x}", "push_key": f"{number:064x}",
             "kind": "checkpoint" if number % 10 else "release", "state": "ready", "integrity": "verified",
             "health": "pending", "is_pinned": False, "message": "", "size": 1, "params": {}, "class_names": [],
             "created_by": "ana", "created_at": T0}
            for number in range(1, VERSIONS + 1)
        ])  # fmt: skip
        model.last_version = VERSIONS
        ids = session.execute(text("SELECT id FROM versions")).scalars().all()
        session.execute(insert(Metric), [
            {"version_id": version, "name": name, "value": 0.5, "recorded_by": "ana", "recorded_at": T0}
            for version in ids for name in ("mAP", "loss")
        ])  # fmt: skip
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


@contextmanager
def statements(app):
    """Every statement the application itself sends."""
    database, sent = app.extensions["registry"].database, []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        sent.append((statement, parameters))

    for engine in (database.engine, database.reader):
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        for engine in (database.engine, database.reader):
            event.remove(engine, "before_cursor_execute", note)


def _asked(http, path):
    answer = http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json


def test_a_longer_page_takes_no_more_statements(http, app, many):
    sent = {path: (_count(http, app, path, 2), _count(http, app, path, 200)) for path in LISTS}
    assert {path: counts for path, counts in sent.items() if counts[1] > counts[0]} == {}


def _count(http, app, path, limit):
    with statements(app) as sent:
        _asked(http, f"{path}{'&' if '?' in path else '?'}limit={limit}")
    return len(sent)


def test_no_list_of_versions_scans_the_table(http, app, database, many):
    with statements(app) as sent:
        page = _asked(http, f"{MODEL}/versions?limit=50")
        _asked(http, f"{MODEL}/versions?limit=50&cursor={page['next']}")
        _asked(http, "/resolve?ref=m")
        _asked(http, "/resolve?ref=m:5000")
    plans = []
    for statement, parameters in sent:
        if statement.lstrip().upper().startswith("SELECT"):
            plans += _plan(database, statement, parameters)
    assert plans
    scans = [line for line in plans if re.search(r"\bSCAN (versions|metrics)\b|Seq Scan on (versions|metrics)", line)]
    assert scans == []


def test_page_100_is_read_as_page_1_is(http, app, database, many):
    """Times are for `make bench`; the plan says that no page reads the ones before it."""
    cursor = _asked(http, f"{MODEL}/versions?limit=50")["next"]
    with statements(app) as first:
        _asked(http, f"{MODEL}/versions?limit=50")
    for _ in range(98):
        cursor = _asked(http, f"{MODEL}/versions?limit=50&cursor={cursor}")["next"]
    with statements(app) as last:
        _asked(http, f"{MODEL}/versions?limit=50&cursor={cursor}")
    assert len(last) == len(first)
    pages = [(sql, values) for sql, values in last if "versions.number <" in sql]
    [(sql, values)] = pages
    indexes = r"ix_versions_latest|uq_versions_model_id|sqlite_autoindex_versions"
    assert any(re.search(indexes, line) for line in _plan(database, sql, values))
    assert "OFFSET" not in sql or database.is_sqlite  # SQLite's dialect writes LIMIT … OFFSET 0


def _plan(database, statement, parameters):
    prefix = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    with database.engine.connect() as connection:
        if not database.is_sqlite:  # small tables are scanned because that is cheaper: ask whether an index could serve
            connection.exec_driver_sql("SET enable_seqscan = off")
        found = connection.exec_driver_sql(prefix + statement, parameters).all()
    return [str(row[-1]) for row in found]
