import pytest
from sqlalchemy import select

from registry.db.tables import IdempotencyKey, Token
from registry.domain.access import Scope
from registry.services.accounts import find_user
from tests.support.world import ADMIN_SECRET, T0, code


def test_a_new_token_works_and_its_secret_is_shown_once(http):
    answer = http.post("/tokens", json={"name": "ci", "actions": ["read"], "models": "vision/*", "expires_in_days": 7})
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    made = answer.json
    whoami = http.get("/whoami", token=made["token"]).json
    assert whoami == {
        "user": "admin",
        "admin": True,
        "token": "ci",
        "actions": ["read"],
        "models": "vision/*",
        "expires_at": made["expires_at"],
    }
    listed = http.items("/tokens")[-1]
    assert "token" not in listed
    assert listed["prefix"] == made["token"][3:11]
    assert listed["last_used_at"] is not None
    assert {**listed, "last_used_at": None} == {key: value for key, value in made.items() if key != "token"}


def test_a_revoked_token_stops_at_once_also_the_one_in_use(http, make_token):
    secret = make_token("ana")
    number = http.items("/tokens", token=secret)[0]["id"]
    assert http.delete(f"/tokens/{number}", token=secret).json["id"] == number
    assert code(http.get("/whoami", token=secret)) == (401, "UNKNOWN_TOKEN")
    assert code(http.delete(f"/tokens/{number}")) == (404, "TOKEN_NOT_FOUND")


@pytest.mark.parametrize("number", ["0", "99999", str(2**63), "9" * 40])
def test_a_token_that_is_not_there_is_said_so(http, number):
    assert code(http.delete(f"/tokens/{number}")) == (404, "TOKEN_NOT_FOUND")


def test_a_user_sees_and_revokes_own_tokens_only(http, make_token):
    ana, bea = make_token("ana", "admin"), make_token("bea")
    [own] = http.items("/tokens", token=ana)
    assert own["user"] == "ana"
    assert http.items("/tokens?user=ana") == http.items("/tokens?user=ANA", token=ana)
    assert code(http.get("/tokens?user=ana", token=bea)) == (403, "PERMISSION_DENIED")
    assert code(http.post("/tokens", json={"name": "x", "user": "ana"}, token=bea)) == (403, "PERMISSION_DENIED")
    assert code(http.delete(f"/tokens/{own['id']}", token=bea)) == (404, "TOKEN_NOT_FOUND")
    made = http.post("/tokens", json={"name": "given", "user": "ana"}).json
    assert http.get("/whoami", token=made["token"]).json["user"] == "ana"
    assert http.delete(f"/tokens/{made['id']}").status_code == 200


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"name": "x", "actions": ["version:publish"]}, (403, "PERMISSION_DENIED")),
        ({"name": "x"}, (403, "PERMISSION_DENIED")),
        ({"name": "x", "actions": ["fly"]}, (422, "INVALID_SCOPE")),
        ({"name": "x", "models": "a/b/c", "actions": ["read"]}, (422, "INVALID_SCOPE")),
        ({"name": "bootstrap", "actions": ["read"]}, (422, "RESERVED_NAME")),
        ({"name": " x", "actions": ["read"]}, (422, "INVALID_LABEL")),
        ({"name": "x", "actions": []}, (422, "INVALID_BODY")),
        ({"name": "x", "expires_in_days": 0}, (422, "INVALID_BODY")),
        ({"name": "x", "user": "nobody", "actions": ["read"]}, (403, "PERMISSION_DENIED")),
    ],
)
def test_a_token_that_goes_too_far_or_means_nothing_is_refused(http, make_token, body, refusal):
    secret = make_token("ana", "admin", scope=Scope(("read", "token:manage")))
    assert code(http.post("/tokens", json=body, token=secret)) == refusal
    assert len(http.items("/tokens", token=secret)) == 1


def test_tokens_are_paged_in_the_order_they_were_made(http, make_token):
    secrets = [make_token("ana") for _ in range(5)]
    numbers = [token["id"] for token in http.items("/tokens", limit=2, token=secrets[0])]
    assert numbers == sorted(numbers)
    assert len(numbers) == 5


@pytest.mark.parametrize(
    ("header", "refusal"),
    [
        (None, "TOKEN_REQUIRED"),
        ("", "TOKEN_REQUIRED"),
        ("Bearer", "TOKEN_REQUIRED"),
        ("Bearer  ", "TOKEN_REQUIRED"),
        (f"Basic {ADMIN_SECRET}", "TOKEN_REQUIRED"),
        (f"Bearer {ADMIN_SECRET}x", "UNKNOWN_TOKEN"),
        ("Bearer wr_" + "x" * 40, "UNKNOWN_TOKEN"),
        ("Bearer " + "x" * 5000, "UNKNOWN_TOKEN"),
    ],
)
def test_a_request_without_a_valid_token_is_refused(http, header, refusal):
    answer = http.get("/whoami", token=None, headers={} if header is None else {"Authorization": header})
    assert code(answer) == (401, refusal)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_an_expired_token_is_refused_and_says_so(http, database, make_token):
    secret = make_token("ana")
    with database.transaction() as session:
        for row in session.scalars(select(Token).where(Token.user_id == find_user(session, "ana").id)):
            row.expires_at = T0.replace(year=2020)
    assert code(http.get("/whoami", token=secret)) == (401, "EXPIRED_TOKEN")


def test_a_repetition_under_one_key_makes_one_token_and_never_stores_its_secret(http, database):
    key = {"Idempotency-Key": "k1"}
    first = http.post("/tokens", json={"name": "ci"}, headers=key)
    again = http.post("/tokens", json={"name": "ci"}, headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.status_code == 201
    assert again.json == first.json | {"token": ""}
    assert [token["name"] for token in http.items("/tokens")] == ["bootstrap", "ci"]
    with database.transaction(read_only=True) as session:
        assert first.json["token"] not in session.scalars(select(IdempotencyKey)).one().body
