from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import func, select

from registry.db.tables import IdempotencyKey, Namespace, User
from tests.support.world import code


def key(value):
    return {"Idempotency-Key": value}


def count(database, table):
    with database.transaction(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(table))


def test_a_repetition_gets_the_same_answer_and_does_nothing_twice(http, database):
    first = http.post("/users", json={"name": "ana"}, headers=key("k1"))
    again = http.post("/users", json={"name": "ana"}, headers=key("k1"))
    assert (first.status_code, "Idempotency-Replayed" in first.headers) == (201, False)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert (again.mimetype, again.data) == (first.mimetype, first.data)
    assert count(database, User) == 2
    assert [event["action"] for event in http.items("/events?namespace=_system")].count("user:create") == 2


def test_without_a_key_or_under_another_the_request_is_a_new_one(http):
    http.post("/users", json={"name": "ana"}, headers=key("k1"))
    assert code(http.post("/users", json={"name": "ana"}, headers=key("k2"))) == (409, "USER_EXISTS")
    assert code(http.post("/users", json={"name": "ana"})) == (409, "USER_EXISTS")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/users", {"name": "bea"}),
        ("POST", "/namespaces", {"name": "ana"}),
        ("PATCH", "/users/ana", {"disabled": True}),
        ("POST", "/users?x=1", {"name": "ana"}),
    ],
)
def test_a_key_belongs_to_one_request(http, database, method, path, body):
    http.post("/users", json={"name": "ana"}, headers=key("k1"))
    refused = http.request(method, path, json=body, headers=key("k1"))
    assert code(refused) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (count(database, User), count(database, Namespace)) == (2, 1)


def test_a_key_belongs_to_one_user(http, make_token):
    root = make_token("root", is_admin=True)
    http.post("/users", json={"name": "ana"}, headers=key("k1"))
    assert http.post("/users", json={"name": "bea"}, headers=key("k1"), token=root).status_code == 201


def test_a_refusal_is_not_remembered(http, database):
    assert code(http.post("/users", json={"name": "admin"}, headers=key("k1"))) == (409, "USER_EXISTS")
    assert count(database, IdempotencyKey) == 0
    assert http.post("/users", json={"name": "ana"}, headers=key("k1")).status_code == 201


def test_a_repetition_by_someone_who_lost_the_right_is_refused(http, make_token):
    ana = make_token("ana", "admin", "vision")
    body = {"role": "reader"}
    assert http.put("/namespaces/vision/grants/admin", json=body, headers=key("k"), token=ana).status_code == 200
    http.delete("/namespaces/vision/grants/ana")
    refused = http.put("/namespaces/vision/grants/admin", json=body, headers=key("k"), token=ana)
    assert code(refused) == (404, "NAMESPACE_NOT_FOUND")


def test_reads_ignore_the_key(http, database):
    assert http.get("/whoami", headers=key("k")).status_code == 200
    assert http.get("/users", headers=key("k")).status_code == 200
    assert count(database, IdempotencyKey) == 0


@pytest.mark.parametrize("value", ["x" * 251, "a\x01b", "\x7f"])
def test_a_key_that_is_none_is_refused(http, database, value):
    assert code(http.post("/users", json={"name": "ana"}, headers=key(value))) == (422, "INVALID_PARAMETER")
    assert count(database, User) == 1


@pytest.mark.parametrize("path", ["/users", "/tokens", "/namespaces"])
def test_the_same_request_at_the_same_time_has_one_effect_and_one_answer(http, database, path):
    http.get("/whoami")  # the use of the token is noted before, so that nobody waits for that
    for attempt in range(3):
        name = f"one{attempt}"
        start = Barrier(6)

        def send(_, name=name, start=start):
            start.wait()
            return http.post(path, json={"name": name}, headers=key(name))

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(send, range(6)))
        assert [answer.status_code for answer in answers] == [201] * 6, [answer.text for answer in answers]
        assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
        shown = [{field: value for field, value in answer.json.items() if field != "token"} for answer in answers]
        assert shown == shown[:1] * 6
        assert [item["name"] for item in http.items(path)].count(name) == 1
