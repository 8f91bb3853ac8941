import pytest

from registry.domain.access import Scope
from tests.support.world import code


def test_an_administrator_creates_a_namespace_and_finds_it_in_any_spelling(http):
    made = http.post("/namespaces", json={"name": "Vision_Lab", "description": "eyes"})
    assert made.status_code == 201
    assert made.json | {"created_at": ""} == {
        "name": "Vision_Lab",
        "description": "eyes",
        "role": "admin",
        "created_at": "",
    }
    shown = http.get("/namespaces/vision-lab")
    assert shown.json == made.json
    assert http.get("/namespaces/vision-lab", headers={"If-None-Match": shown.headers["ETag"]}).status_code == 304


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"name": "DEFAULT"}, (409, "NAMESPACE_EXISTS")),
        ({"name": "_system"}, (422, "INVALID_NAME")),
        ({"name": "a/b"}, (422, "INVALID_NAME")),
        ({"name": "versions"}, (422, "RESERVED_NAME")),
        ({"name": "x", "role": "admin"}, (422, "INVALID_BODY")),
    ],
)
def test_a_namespace_that_cannot_be_is_refused(http, body, refusal):
    assert code(http.post("/namespaces", json=body)) == refusal
    assert len(http.items("/namespaces")) == 1


def test_a_list_shows_the_namespaces_with_a_role_and_the_role(http, make_token):
    make_token("bea", "writer", "audio")
    make_token("ana", "promoter", "vision")
    secret = make_token("ana", "reader", "text")
    found = [(row["name"], row["role"]) for row in http.items("/namespaces", limit=1, token=secret)]
    assert found == [("text", "reader"), ("vision", "promoter")]
    assert [row["name"] for row in http.items("/namespaces", limit=2)] == ["audio", "default", "text", "vision"]
    assert http.items("/namespaces", token=make_token("cleo")) == []


def test_a_namespace_without_a_role_in_it_is_not_there(http, make_token):
    make_token("bea", "writer", "audio")
    secret = make_token("ana", "admin", "vision")
    for namespace in ("audio", "nothing"):
        assert code(http.get(f"/namespaces/{namespace}", token=secret)) == (404, "NAMESPACE_NOT_FOUND")
        assert code(http.get(f"/namespaces/{namespace}/grants", token=secret)) == (404, "NAMESPACE_NOT_FOUND")
    assert code(http.get("/namespaces/nothing")) == (404, "NAMESPACE_NOT_FOUND")
    assert code(http.get("/namespaces/_system")) == (404, "NOT_FOUND")


def test_an_admin_of_a_namespace_grants_and_revokes_roles(http, make_token):
    ana, bea = make_token("ana", "admin", "vision"), make_token("bea")
    assert code(http.get("/namespaces/vision", token=bea)) == (404, "NAMESPACE_NOT_FOUND")
    given = http.put("/namespaces/vision/grants/bea", json={"role": "reader"}, token=ana)
    assert (given.status_code, given.json) == (200, {"user": "bea", "role": "reader"})
    assert http.get("/namespaces/vision", token=bea).json["role"] == "reader"
    assert code(http.put("/namespaces/vision/grants/bea", json={"role": "admin"}, token=bea)) == (
        403,
        "PERMISSION_DENIED",
    )
    http.put("/namespaces/vision/grants/bea", json={"role": "writer"}, token=ana)
    grants = http.items("/namespaces/vision/grants", limit=1, token=ana)
    assert grants == [{"user": "ana", "role": "admin"}, {"user": "bea", "role": "writer"}]
    assert http.delete("/namespaces/vision/grants/bea", token=ana).json == {"user": "bea", "role": "writer"}
    assert code(http.get("/namespaces/vision", token=bea)) == (404, "NAMESPACE_NOT_FOUND")
    assert code(http.delete("/namespaces/vision/grants/bea", token=ana)) == (404, "GRANT_NOT_FOUND")


@pytest.mark.parametrize(
    ("user", "body", "refusal"),
    [
        ("nobody", {"role": "reader"}, (404, "USER_NOT_FOUND")),
        ("a%00b", {"role": "reader"}, (404, "USER_NOT_FOUND")),
        ("admin", {"role": "owner"}, (422, "INVALID_BODY")),
        ("admin", {}, (422, "INVALID_BODY")),
    ],
)
def test_a_grant_that_cannot_be_is_refused(http, user, body, refusal):
    assert code(http.put(f"/namespaces/default/grants/{user}", json=body)) == refusal
    assert http.items("/namespaces/default/grants") == []


def test_a_token_whose_scope_leaves_grants_out_is_refused(http, make_token):
    secret = make_token("ana", "admin", scope=Scope(("read",)))
    assert code(http.get("/namespaces/default/grants", token=secret)) == (403, "PERMISSION_DENIED")
    assert http.get("/namespaces", token=secret).status_code == 200
    only_models = make_token("ana", "admin", scope=Scope(models="default/*"))
    assert code(http.get("/namespaces", token=only_models)) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize("cursor", ["x", "WzFd", "bnVsbA==", "WyJhXHUwMDAwIl0="])
def test_a_cursor_that_was_not_handed_out_is_refused(http, cursor):
    assert code(http.get(f"/namespaces?cursor={cursor}")) == (422, "INVALID_CURSOR")


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "", "٣"])
def test_a_limit_that_is_no_limit_is_refused(http, limit):
    assert code(http.get("/namespaces", query_string={"limit": limit})) == (422, "INVALID_PARAMETER")
