import base64
import json

import pytest

from tests.support.factories import make_model, make_version, make_versions
from tests.support.world import code


@pytest.fixture(autouse=True)
def model(app, database):
    with database.transaction() as session:
        found = make_model(session, "vision/yolo")
        make_versions(session, found, 4)
        make_version(session, found, state="trashed")
        make_version(session, found, integrity="damaged")


STAGES = "/models/vision/yolo/stages"
PRODUCTION = f"{STAGES}/production"


def promote(http, version, **more):
    return http.post(f"{PRODUCTION}/promotions", json={"version": version} | more)


def cursor_of(*key):
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def holder(http):
    shown = http.get(PRODUCTION)
    assert shown.status_code == 200, shown.text
    return shown.json["version"]


def test_a_stage_that_never_moved_is_empty_at_seq_0(http):
    empty: dict[str, object] = {"version": None, "seq": 0, "since": None, "by": None, "consumers": {}}
    assert http.get(PRODUCTION).json == {"stage": "production"} | empty
    assert http.get(STAGES).json == {
        "items": [{"stage": stage} | empty for stage in ("staging", "production")],
        "next": None,
    }


def test_a_promotion_moves_the_stage_and_says_what_became_of_it(http):
    moved = promote(http, 2, message="better")
    assert moved.status_code == 201, moved.text
    said = moved.json
    assert said.items() >= {
        "model": "vision/yolo", "stage": "production", "kind": "promote", "state": "applied", "seq": 1, "version": 2,
        "previous": None, "by": "admin", "message": "better",
    }.items()  # fmt: skip
    assert http.get(PRODUCTION).json == {
        "stage": "production", "version": 2, "seq": 1, "since": said["at"], "by": "admin", "consumers": {},
    }  # fmt: skip
    assert http.get(f"/promotions/{said['id']}").json == said
    assert http.get("/resolve?ref=vision/yolo@production").json["number"] == 2


def test_a_stage_that_is_not_as_expected_is_refused_with_its_holder(http):
    promote(http, 1)
    refused = promote(http, 3, expect=2)
    assert code(refused) == (409, "STAGE_MOVED")
    assert refused.json.items() >= {"holder": 1, "seq": 1, "by": "admin"}.items()
    assert code(promote(http, 3, expect=0)) == (409, "STAGE_MOVED")
    assert code(promote(http, 3, expect_seq=0)) == (409, "STAGE_MOVED")
    assert holder(http) == 1
    assert promote(http, 3, expect=1, expect_seq=1).status_code == 201


def test_if_match_guards_a_stage(http):
    unmoved = {"If-Match": http.get(PRODUCTION).headers["ETag"]}
    first = http.post(f"{PRODUCTION}/promotions", json={"version": 1}, headers=unmoved)
    assert first.status_code == 201
    for change, sent in (("promotions", {"version": 2}), ("rollback", {})):
        late = http.post(f"{PRODUCTION}/{change}", json=sent, headers=unmoved)
        assert code(late) == (412, "PRECONDITION_FAILED")
    assert holder(http) == 1
    present = {"If-Match": http.get(PRODUCTION).headers["ETag"]}
    assert http.post(f"{PRODUCTION}/promotions", json={"version": 2}, headers=present).status_code == 201
    assert http.post(f"{PRODUCTION}/rollback", json={}, headers={"If-Match": "*"}).status_code == 201


def test_a_stage_that_did_not_move_is_not_sent_again(http):
    promote(http, 1)
    seen = {"If-None-Match": http.get(PRODUCTION).headers["ETag"]}
    assert http.get(PRODUCTION, headers=seen).status_code == 304
    promote(http, 2)
    assert http.get(PRODUCTION, headers=seen).json["version"] == 2


def test_a_retry_with_its_idempotency_key_moves_nothing_again(http):
    key = {"Idempotency-Key": "deploy-17"}
    first = http.post(f"{PRODUCTION}/promotions", json={"version": 1}, headers=key)
    promote(http, 2)
    retry = http.post(f"{PRODUCTION}/promotions", json={"version": 1}, headers=key)
    assert (retry.status_code, retry.json) == (201, first.json)
    assert holder(http) == 2


def test_a_rollback_returns_to_the_holder_before_or_the_one_named(http):
    for version in (1, 2, 3):
        promote(http, version)
    back = http.post(f"{PRODUCTION}/rollback", json={"message": "it drifts"})
    assert back.status_code == 201, back.text
    assert back.json.items() >= {"kind": "rollback", "seq": 4, "version": 2, "previous": 3}.items()
    assert http.post(f"{PRODUCTION}/rollback", json={"to": 1, "expect": 2}).json["version"] == 1
    assert code(http.post(f"{PRODUCTION}/rollback", json={"to": 4})) == (409, "NOT_A_FORMER_HOLDER")
    assert code(http.post(f"{STAGES}/staging/rollback", json={})) == (409, "NOTHING_TO_ROLL_BACK")


def test_a_demotion_empties_the_stage(http):
    promote(http, 1)
    emptied = promote(http, None, expect=1)
    assert emptied.json.items() >= {"kind": "demote", "version": None, "previous": 1, "seq": 2}.items()
    assert holder(http) is None
    assert code(promote(http, None)) == (409, "STAGE_EMPTY")


@pytest.mark.parametrize(
    ("sent", "refusal"),
    [
        ({"version": 5}, (410, "VERSION_TRASHED")),
        ({"version": 6}, (409, "VERSION_DAMAGED")),
        ({"version": 9}, (404, "VERSION_NOT_FOUND")),
        ({"version": 0}, (422, "INVALID_BODY")),
        ({"version": "one"}, (422, "INVALID_BODY")),
        ({}, (422, "INVALID_BODY")),
        ({"version": 1, "expct": 2}, (422, "INVALID_BODY")),
        ({"version": 1, "expect": -1}, (422, "INVALID_BODY")),
    ],
)
def test_a_refused_promotion_leaves_nothing_behind(http, sent, refusal):
    before = http.get("/events?namespace=vision").json
    assert code(http.post(f"{PRODUCTION}/promotions", json=sent)) == refusal
    assert http.items(f"{PRODUCTION}/history") == []
    assert http.get("/events?namespace=vision").json == before


@pytest.mark.parametrize("path", ["", "/history", "?at=2026-01-01T00:00:00Z"])
def test_an_unknown_stage_is_not_found_and_those_there_are_are_named(http, path):
    refused = http.get(f"{STAGES}/canary{path}")
    assert code(refused) == (404, "STAGE_NOT_FOUND")
    assert refused.json["stages"] == ["staging", "production"]


def test_an_unknown_stage_cannot_be_moved(http):
    assert code(http.post(f"{STAGES}/canary/promotions", json={"version": 1})) == (404, "STAGE_NOT_FOUND")
    assert code(http.post(f"{STAGES}/canary/rollback", json={})) == (404, "STAGE_NOT_FOUND")


def test_the_history_comes_newest_first_in_pages(http):
    for version in (1, 2, 3, 4, 1):
        promote(http, version)
    http.post(f"{PRODUCTION}/rollback", json={"to": 3, "message": "it drifts"})
    entries = http.items(f"{PRODUCTION}/history", limit=2)
    assert [entry["seq"] for entry in entries] == [6, 5, 4, 3, 2, 1]
    assert [entry["version"] for entry in entries] == [3, 1, 4, 3, 2, 1]
    assert [entry["previous"] for entry in entries] == [1, 4, 3, 2, 1, None]
    assert entries[0].items() >= {"kind": "rollback", "by": "admin", "message": "it drifts"}.items()
    for cursor in ("nonsense", cursor_of(2**40), cursor_of(0)):
        assert code(http.get(f"{PRODUCTION}/history?cursor={cursor}")) == (422, "INVALID_CURSOR")


def test_the_stage_is_shown_as_it_was_at_any_moment(http):
    first, second = (promote(http, version).json for version in (1, 2))
    now = http.get(PRODUCTION).json | {"consumers": None}  # who runs what is known of this moment only
    assert http.get(PRODUCTION, query_string={"at": second["at"]}).json == now
    then = http.get(PRODUCTION, query_string={"at": first["at"]}).json
    assert then == {
        "stage": "production",
        "version": 1,
        "seq": 1,
        "since": first["at"],
        "by": "admin",
        "consumers": None,
    }
    assert http.get(PRODUCTION, query_string={"at": "2020-01-01T00:00:00+01:00"}).json["version"] is None
    assert http.get(f"{PRODUCTION}?at=9999-12-31t23:59:59.123456789z").json == now


@pytest.mark.parametrize(
    "at",
    [
        "",
        "yesterday",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-02-30T00:00:00Z",
        "0001-01-01T00:00:00%2B23:59",
        "2026-01-01T00:00:00+01:00",
        "%00",
    ],
)
def test_a_moment_that_is_no_time_is_refused(http, at):
    assert code(http.get(f"{PRODUCTION}?at={at}")) == (422, "INVALID_PARAMETER")


def test_promoters_move_stages_and_writers_do_not(http, make_token):
    writer, promoter = make_token("ana", "writer", "vision"), make_token("bob", "promoter", "vision")
    for change, sent in (("promotions", {"version": 1}), ("rollback", {})):
        assert code(http.post(f"{PRODUCTION}/{change}", json=sent, token=writer)) == (403, "PERMISSION_DENIED")
    moved = http.post(f"{PRODUCTION}/promotions", json={"version": 1}, token=promoter)
    assert (moved.status_code, moved.json["by"]) == (201, "bob")
    assert http.get(PRODUCTION, token=writer).json["by"] == "bob"


def test_a_promotion_is_not_there_for_whoever_may_not_read_its_model(http, make_token):
    stranger, narrow = make_token("eve", "admin", "elsewhere"), make_token("ana", "reader", "vision")
    promotion = promote(http, 1).json
    path = f"/promotions/{promotion['id']}"
    assert http.get(path, token=narrow).json == promotion
    assert code(http.get(path, token=stranger)) == (404, "PROMOTION_NOT_FOUND")
    assert code(http.get(f"/promotions/{'0' * 32}")) == (404, "PROMOTION_NOT_FOUND")
    assert code(http.get("/promotions/%00")) == (404, "PROMOTION_NOT_FOUND")
    assert code(http.get(PRODUCTION, token=stranger)) == (404, "MODEL_NOT_FOUND")
