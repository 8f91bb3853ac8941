import pytest

from tests.support.world import code


def test_an_administrator_creates_disables_and_enables_a_user(http, make_token):
    made = http.post("/users", json={"name": "ana"})
    assert made.status_code == 201
    assert made.json | {"created_at": ""} == {"name": "ana", "admin": False, "disabled": False, "created_at": ""}
    secret = make_token("ana")
    assert http.get("/whoami", token=secret).status_code == 200
    assert http.patch("/users/Ana", json={"disabled": True}).json["disabled"] is True
    assert code(http.get("/whoami", token=secret)) == (401, "UNKNOWN_TOKEN")
    assert http.patch("/users/ana", json={"disabled": False, "admin": True}).json["admin"] is True
    assert http.get("/users", token=secret).status_code == 200


def test_users_are_paged_by_name(http):
    for name in ("cleo", "ana", "bea+ci@example.org"):
        http.post("/users", json={"name": name})
    names = [user["name"] for user in http.items("/users", limit=1)]
    assert names == ["admin", "ana", "bea+ci@example.org", "cleo"]
    assert [user["name"] for user in http.items("/users", limit=4)] == names


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"name": "admin"}, (409, "USER_EXISTS")),
        ({"name": "Ana"}, (422, "INVALID_USER_NAME")),
        ({"name": "worker"}, (422, "RESERVED_NAME")),
        ({}, (422, "INVALID_BODY")),
        ({"name": "ana", "password": "x"}, (422, "INVALID_BODY")),
    ],
)
def test_a_user_that_cannot_be_is_refused(http, body, refusal):
    assert code(http.post("/users", json=body)) == refusal
    assert len(http.items("/users")) == 1


@pytest.mark.parametrize("change", [{"disabled": True}, {"admin": False}])
def test_the_last_administrator_stays(http, change):
    assert code(http.patch("/users/admin", json=change)) == (409, "LAST_ADMINISTRATOR")
    assert http.get("/whoami").json["admin"] is True


@pytest.mark.parametrize("name", ["nobody", "a%00b", "%ED%A0%80", "x" * 300])
def test_a_user_that_is_not_there_is_said_so(http, name):
    assert code(http.patch(f"/users/{name}", json={"disabled": True})) == (404, "USER_NOT_FOUND")


def test_users_are_for_administrators(http, make_token):
    secret = make_token("ana", "admin")
    assert code(http.get("/users", token=secret)) == (403, "PERMISSION_DENIED")
    assert code(http.post("/users", json={"name": "bea"}, token=secret)) == (403, "PERMISSION_DENIED")
    assert code(http.patch("/users/ana", json={"admin": True}, token=secret)) == (403, "PERMISSION_DENIED")
