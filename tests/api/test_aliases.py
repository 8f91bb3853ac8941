import pytest

from tests.support.factories import make_model, make_version, make_versions
from tests.support.world import code


@pytest.fixture(autouse=True)
def model(app, database):
    with database.transaction() as session:
        found = make_model(session, "vision/yolo")
        make_versions(session, found, 2)
        make_version(session, found, state="trashed")


ALIASES = "/models/vision/yolo/aliases"


def test_an_alias_is_pointed_shown_listed_and_removed(http):
    pointed = http.put(f"{ALIASES}/champion", json={"number": 2})
    assert pointed.status_code == 200, pointed.text
    assert pointed.json.items() >= {"alias": "champion", "number": 2, "seq": 1, "by": "admin"}.items()
    assert http.get(f"{ALIASES}/champion").json == pointed.json
    assert http.items(ALIASES) == [pointed.json]
    removed = http.delete(f"{ALIASES}/champion")
    assert (removed.status_code, removed.data) == (204, b"")
    assert code(http.get(f"{ALIASES}/champion")) == (404, "POINTER_NOT_FOUND")
    assert code(http.delete(f"{ALIASES}/champion")) == (404, "POINTER_NOT_FOUND")
    assert http.items(ALIASES) == []


def test_an_alias_that_did_not_move_is_not_sent_again(http):
    http.put(f"{ALIASES}/champion", json={"number": 1})
    shown = http.get(f"{ALIASES}/champion")
    seen = {"If-None-Match": shown.headers["ETag"]}
    assert http.get(f"{ALIASES}/champion", headers=seen).status_code == 304
    http.put(f"{ALIASES}/champion", json={"number": 2})
    assert http.get(f"{ALIASES}/champion", headers=seen).status_code == 200


def test_aliases_come_in_pages_by_name(http):
    for name in ("e", "c", "a", "d", "b"):
        http.put(f"{ALIASES}/{name}x", json={"number": 1})
    assert [item["alias"] for item in http.items(ALIASES, limit=2)] == ["ax", "bx", "cx", "dx", "ex"]


@pytest.mark.parametrize(
    ("alias", "sent", "refusal"),
    [
        ("production", {"number": 1}, (409, "ALIAS_IS_STAGE")),
        ("latest", {"number": 1}, (422, "RESERVED_NAME")),
        ("deadbeef", {"number": 1}, (422, "INVALID_POINTER_NAME")),
        ("champion%00", {"number": 1}, (422, "INVALID_POINTER_NAME")),
        ("champion", {"number": 3}, (410, "VERSION_TRASHED")),
        ("champion", {"number": 9}, (404, "VERSION_NOT_FOUND")),
        ("champion", {"number": 0}, (422, "INVALID_BODY")),
        ("champion", {"number": 2**31}, (422, "INVALID_BODY")),
        ("champion", {}, (422, "INVALID_BODY")),
    ],
)
def test_a_refused_alias_points_nowhere(http, alias, sent, refusal):
    assert code(http.put(f"{ALIASES}/{alias}", json=sent)) == refusal
    assert http.items(ALIASES) == []


def test_rights_are_checked_on_the_model(http, make_token):
    reader, stranger = make_token("ana", "reader", "vision"), make_token("eve", "admin", "elsewhere")
    http.put(f"{ALIASES}/champion", json={"number": 1})
    assert http.get(f"{ALIASES}/champion", token=reader).status_code == 200
    assert code(http.put(f"{ALIASES}/champion", json={"number": 2}, token=reader)) == (403, "PERMISSION_DENIED")
    assert code(http.delete(f"{ALIASES}/champion", token=reader)) == (403, "PERMISSION_DENIED")
    assert code(http.get(ALIASES, token=stranger)) == (404, "MODEL_NOT_FOUND")
    assert code(http.get(ALIASES, token=None)) == (401, "TOKEN_REQUIRED")
