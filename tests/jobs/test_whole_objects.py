import hashlib
import itertools
import json
import os
import subprocess
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update

from registry.db.tables import Namespace, Version, WholeObject
from registry.jobs import whole_objects as jobs
from registry.jobs.workflows import Tools
from registry.services import storage_use, whole_objects
from registry.storage import multipart, streaming
from registry.storage.layout import NAMESPACES, whole_key
from registry.storage.multipart import Multipart
from registry.storage.s3 import ObjectMissingError, StorageUnavailableError
from tests.support.pushing import cut, push
from tests.support.world import Http

STAGING, PRODUCTION = "/models/yolo/stages/staging", "/models/yolo/stages/production"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(streaming, "WINDOW", 100_000)
    monkeypatch.setattr("registry.storage.s3._PAUSES", (0.01, 0.01))


@pytest.fixture
def parts(app):
    return app.extensions["registry"]


@pytest.fixture
def tools(parts):
    return Tools(parts.config, parts.database, parts.store)


@pytest.fixture
def data():
    """Two versions, each one file that is cut up."""
    return [os.urandom(300_000), os.urandom(200_000)]


@pytest.fixture
def yolo(http, data):
    for number, content in enumerate(data):
        push(http, "yolo", {"a.bin": content, "one.txt": b"one segment"}, size=70_000, message=str(number))
    return "/models/yolo/versions"


@pytest.fixture
def pending(http, tools, yolo):
    """Version 1 is on a stage, and its file is to be written."""
    promote(http, 1)
    [(_, _, arguments)] = wanted(tools)
    jobs.reconcile(tools, *arguments)
    [row] = rows(tools)
    return row


def promote(http: Http, number: int | None, stage: str = PRODUCTION) -> None:
    assert http.post(f"{stage}/promotions", json={"version": number}).status_code == 201


def wanted(tools: Tools) -> list[tuple[str, str, tuple[Any, ...]]]:
    """What is enqueued and has not been done by `work`: workflow and arguments, oldest first."""
    schema = "" if tools.database.is_sqlite else "dbos."
    query = text(
        f"SELECT workflow_uuid, name, given.inputs FROM {schema}workflow_status AS status "
        f"JOIN {schema}workflow_input AS given USING (workflow_uuid) "
        "WHERE status.status = 'ENQUEUED' AND name LIKE '%whole_object%' ORDER BY created_at, workflow_uuid"
    )
    with tools.database.transaction(read_only=True) as session:
        rows = session.execute(query).all()
    return [(row.workflow_uuid, row.name, tuple(json.loads(row.inputs)["positionalArgs"])) for row in rows]


def work(tools: Tools) -> None:
    """What a worker does, without its queue, until nothing is left to do."""
    schema = "" if tools.database.is_sqlite else "dbos."
    done = text(f"UPDATE {schema}workflow_status SET status = 'SUCCESS' WHERE workflow_uuid = :id")
    while todo := wanted(tools):
        for name, workflow, arguments in todo:
            run(tools, workflow, arguments)
            with tools.database.transaction() as session:
                session.execute(done, {"id": name})


def run(tools, workflow, arguments):
    if workflow == whole_objects.RECONCILE:
        jobs.reconcile(tools, *arguments)
    else:
        jobs.record(tools, *arguments, is_written=jobs.write(tools, arguments[0]))


def rows(tools: Tools, *states: str) -> list[WholeObject]:
    with tools.database.transaction(read_only=True) as session:
        query = select(WholeObject).order_by(WholeObject.id)
        return list(session.scalars(query.where(WholeObject.state.in_(states)) if states else query))


def live(tools: Tools) -> set[str]:
    return {row.sha256 for row in rows(tools, "live")}


def key_of(row: WholeObject) -> str:
    return whole_key(row.namespace_id, row.sha256, row.generation)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def unended(tools: Tools) -> list[str]:
    return [found.key for found in tools.store.multipart.unended(NAMESPACES) if "/whole/" in found.key]


def later(tools: Tools, **delta: float) -> None:
    """Let time pass for what was condemned."""
    with tools.database.transaction() as session:
        for row in session.scalars(select(WholeObject).where(WholeObject.state == "condemned")):
            assert row.condemned_at is not None
            row.condemned_at = row.condemned_at - timedelta(**delta)


def test_a_promoted_version_is_redirected_to_one_object(http, tools, yolo, data):
    assert http.get(f"{yolo}/1/artifacts/a.bin").status_code == 200
    promote(http, 1)
    assert http.get(f"{yolo}/1/artifacts/a.bin").status_code == 200  # until it is there
    work(tools)
    [row] = rows(tools)
    assert (row.state, row.sha256, row.size) == ("live", sha(data[0]), 300_000)
    assert tools.store.read(key_of(row), 0, 300_001) == data[0]
    answer = http.get(f"{yolo}/1/artifacts/a.bin")
    assert (answer.status_code, key_of(row) in answer.headers["Location"]) == (307, True)
    assert http.get(f"{yolo}/1/artifacts/a.bin?redirect=0").data == data[0]
    assert http.head(f"{yolo}/1/artifacts/a.bin").status_code == 200
    assert unended(tools) == []


def test_curl_follows_with_a_range(http, tools, yolo, data):
    promote(http, 1)
    work(tools)
    location = http.get(f"{yolo}/1/artifacts/a.bin", headers={"Range": "bytes=69990-70010"}).headers["Location"]
    command = ["curl", "-sSL", "-H", "Range: bytes=69990-70010", "-w", "%{stderr}%{http_code}", location]
    done = subprocess.run(command, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (data[0][69_990:70_011], b"206")


def test_a_file_of_two_versions_is_written_once_and_stays_while_one_is_staged(http, tools, yolo, data):
    push(http, "yolo", {"a.bin": data[0], "more.txt": b"more"}, size=70_000)
    promote(http, 1)
    promote(http, 3, STAGING)
    work(tools)
    promote(http, None)
    work(tools)
    assert [(row.state, row.sha256) for row in rows(tools)] == [("live", sha(data[0]))]
    promote(http, None, STAGING)
    work(tools)
    assert [row.state for row in rows(tools)] == ["condemned"]
    assert http.get(f"{yolo}/1/artifacts/a.bin").status_code == 200


def test_what_left_its_stage_is_deleted_when_no_url_can_be_valid(http, tools, yolo):
    promote(http, 1)
    work(tools)
    promote(http, 2)
    work(tools)
    [old] = rows(tools, "condemned")
    later(tools, seconds=tools.config.url_ttl_s)
    jobs.sweep(tools)
    assert tools.store.head(key_of(old)).size == 300_000  # somebody may have got a URL at the last moment
    later(tools, minutes=6)
    jobs.sweep(tools)
    jobs.sweep(tools)
    with pytest.raises(ObjectMissingError):
        tools.store.head(key_of(old))
    assert [row.state for row in rows(tools)] == ["live"]


def test_a_file_that_comes_back_gets_a_new_key(http, tools, yolo, data):
    for number in (1, 2, 1):
        promote(http, number)
        work(tools)
    first, _, again = rows(tools)
    assert (first.sha256, first.state) == (again.sha256, "condemned")
    assert again.generation > first.generation
    assert live(tools) == {sha(data[0])}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_whatever_the_order_of_the_work_the_last_state_of_the_stages_counts(http, tools, yolo, data, order):
    promote(http, 1)
    promote(http, 2)
    assert http.post(f"{PRODUCTION}/rollback", json={}).status_code == 201
    todo = [arguments for _, _, arguments in wanted(tools)]
    assert len(todo) == 3
    for index in order:
        jobs.reconcile(tools, *todo[index])
    work(tools)
    assert live(tools) == {sha(data[0])}
    assert rows(tools, "pending") == []


def test_a_stage_that_moves_while_a_file_is_written_leaves_nothing_behind(http, tools, yolo, data):
    promote(http, 1)
    [(_, _, arguments)] = wanted(tools)
    jobs.reconcile(tools, *arguments)
    [row] = rows(tools)
    is_written = jobs.write(tools, row.id)
    promote(http, 2)
    jobs.reconcile(tools, *arguments)
    jobs.record(tools, row.id, key_of(row), is_written=is_written)
    work(tools)
    assert live(tools) == {sha(data[1])}
    later(tools, days=1)
    jobs.sweep(tools)
    with pytest.raises(ObjectMissingError):
        tools.store.head(key_of(row))


def test_what_is_written_after_its_row_was_dropped_goes_at_once(http, tools, yolo):
    promote(http, 1)
    [(_, _, arguments)] = wanted(tools)
    jobs.reconcile(tools, *arguments)
    [row] = rows(tools)
    assert jobs.write(tools, row.id)
    promote(http, None)
    jobs.reconcile(tools, *arguments)
    with tools.database.transaction() as session:
        whole_objects.forget(session, [row.id])
    jobs.record(tools, row.id, key_of(row), is_written=True)
    with pytest.raises(ObjectMissingError):
        tools.store.head(key_of(row))


class Killed(BaseException):
    """Stands for SIGKILL: nothing that handles errors runs, as `dead` sees to."""


@pytest.mark.parametrize("point", ["begin", "put", "complete", "completed"])
def test_a_worker_that_dies_at_any_point_leaves_work_that_the_next_one_does(tools, pending, data, monkeypatch, point):
    row = pending
    with monkeypatch.context() as dead:
        dead.setattr(Multipart, "abort", lambda *_: None)  # a dead worker tidies nothing up
        method = point.removesuffix("d")
        original = getattr(Multipart, method)

        def die(*given, **more):
            if point == "completed":
                original(*given, **more)
            raise Killed

        dead.setattr(Multipart, method, die)
        with pytest.raises(Killed):
            jobs.write(tools, row.id)
    assert rows(tools, "pending")
    work(tools)
    assert live(tools) == {sha(data[0])}
    assert tools.store.read(key_of(row), 0, 300_001) == data[0]
    assert len(unended(tools)) == (point in ("put", "complete"))
    jobs.sweep(tools)
    assert unended(tools) == []


def test_two_workers_that_write_the_same_file_do_no_harm(http, tools, yolo, data, monkeypatch):
    promote(http, 1)
    [(_, _, arguments)] = wanted(tools)
    jobs.reconcile(tools, *arguments)
    [row] = rows(tools)
    complete = Multipart.complete

    def late(*given, **more):
        monkeypatch.setattr(Multipart, "complete", complete)
        jobs.record(tools, row.id, key_of(row), is_written=jobs.write(tools, row.id))  # the other is faster
        complete(*given, **more)

    monkeypatch.setattr(Multipart, "complete", late)
    jobs.record(tools, row.id, key_of(row), is_written=jobs.write(tools, row.id))
    assert live(tools) == {sha(data[0])}
    assert tools.store.read(key_of(row), 0, 300_001) == data[0]
    assert unended(tools) == []


def test_a_sweep_leaves_uploads_alone_that_are_under_way(http, tools, yolo):
    promote(http, 1)
    [(_, _, arguments)] = wanted(tools)
    jobs.reconcile(tools, *arguments)
    [row] = rows(tools)
    upload_id = tools.store.multipart.begin(key_of(row))
    jobs.sweep(tools)
    assert unended(tools) == [key_of(row)]
    tools.store.multipart.abort(key_of(row), upload_id)


def test_a_row_whose_work_was_lost_is_begun_anew(http, tools, yolo, data):
    promote(http, 1)
    [(_, _, arguments)] = wanted(tools)
    jobs.reconcile(tools, *arguments)
    with tools.database.transaction() as session:
        row = session.scalars(select(WholeObject)).one()
        row.created_at -= timedelta(days=2)
    jobs.sweep(tools)
    assert [row.state for row in rows(tools)] == ["condemned", "pending"]
    work(tools)
    assert live(tools) == {sha(data[0])}


def test_an_object_that_the_store_lost_is_written_anew(http, tools, yolo, data):
    promote(http, 1)
    work(tools)
    [row] = rows(tools)
    tools.store.delete(key_of(row))  # as after a restore of an older database
    jobs.sweep(tools)
    assert http.get(f"{yolo}/1/artifacts/a.bin").status_code == 200
    work(tools)
    assert [row.state for row in rows(tools)] == ["condemned", "live"]
    assert http.get(f"{yolo}/1/artifacts/a.bin").status_code == 307


def test_nothing_is_written_of_a_damaged_version(http, tools, yolo):
    promote(http, 1)
    with tools.database.transaction() as session:
        session.execute(update(Version).where(Version.number == 1).values(integrity="damaged"))
    work(tools)
    assert rows(tools) == []


@pytest.mark.parametrize("fault", ["flipped", "lost"])
def test_wrong_bytes_are_never_made_whole_and_the_version_is_proved_again(http, tools, yolo, data, fault):
    with tools.database.transaction() as session:
        session.execute(update(Version).values(integrity="verified"))
    piece = cut(data[0], 70_000)[2]
    key = f"ns/1/{sha(piece)[:2]}/{sha(piece)}.1.raw"
    key = key.replace("ns/1/", f"ns/{_namespace_id(tools)}/")
    if fault == "lost":
        tools.store.delete(key)
    else:
        wrong = bytes([piece[0] ^ 1]) + piece[1:]
        tools.store.put(key, wrong, sha(wrong))
    promote(http, 1)
    work(tools)
    [row] = rows(tools)
    assert row.state == "condemned"
    with pytest.raises(ObjectMissingError):
        tools.store.head(key_of(row))
    assert unended(tools) == []
    assert http.get(f"{yolo}/1").json["integrity"] == "unverified"


def _namespace_id(tools):
    with tools.database.transaction(read_only=True) as session:
        return session.scalars(select(Namespace.id).where(Namespace.name == "default")).one()


def test_a_store_that_is_down_leaves_the_row_pending(http, tools, yolo, monkeypatch):
    promote(http, 1)
    [(_, _, arguments)] = wanted(tools)
    jobs.reconcile(tools, *arguments)
    [row] = rows(tools)

    def fail(*_, **__):
        raise StorageUnavailableError("The object store cannot be reached.")

    monkeypatch.setattr(Multipart, "put", fail)
    with pytest.raises(StorageUnavailableError):
        jobs.write(tools, row.id)
    assert [row.state for row in rows(tools)] == ["pending"]
    assert unended(tools) == []


def test_a_file_of_many_parts_is_put_together(http, tools, yolo, data, monkeypatch):
    monkeypatch.setattr(multipart, "part_size", lambda _: 5 << 20)
    content = os.urandom(1 << 20) * 17 + b"the end"
    push(http, "big", {"a.bin": content}, size=3 << 20)
    assert http.post("/models/big/stages/production/promotions", json={"version": 1}).status_code == 201
    work(tools)
    [row] = rows(tools)
    assert row.state == "live"
    assert sha(tools.store.read(key_of(row), 0, len(content) + 1)) == sha(content)


def test_whole_objects_are_counted_while_they_are_live(http, tools, yolo, admin, data):
    def use():
        with tools.database.transaction(read_only=True) as session:
            return storage_use.measure(session, admin, None)

    before = use()
    promote(http, 1)
    work(tools)
    assert use() == replace(before, whole_bytes=len(data[0]), whole_objects=1)
    promote(http, None)
    work(tools)
    assert use() == before
