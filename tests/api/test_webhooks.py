from datetime import timedelta

import pytest

from registry.db.session import now
from registry.services import dispatching
from registry.services.dispatching import Outcome
from tests.support.world import code

HOOK = {"namespace": "default", "url": "https://hooks.example.com/a?token=hidden"}


@pytest.fixture
def database_of(app):
    return app.extensions["registry"].database


def sent(database, status=200, limit=10):
    """What a dispatcher would do once; gives how much it was."""
    with database.transaction() as session:
        works = dispatching.claim(session, limit=limit, full=(), admit=lambda _webhook: True, now=now(session))
    for work in works:
        with database.transaction() as session:
            dispatching.settle(session, work, Outcome(status, 12, None), chance=0.5, now=now(session), schedule=())
    return works


def test_a_secret_is_shown_when_it_is_made_and_never_again(http):
    answer = http.post("/webhooks", json={**HOOK, "actions": ["promotion:*"], "description": "chat"})
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    made = answer.json
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert made == {
        "id": made["id"],
        "namespace": "default",
        "model": None,
        "url": HOOK["url"],
        "actions": ["promotion:*"],
        "description": "chat",
        "enabled": True,
        "by": "admin",
        "created_at": made["created_at"],
        "old_secret_until": None,
        "pending": 0,
        "dead": 0,
    }
    path = f"/webhooks/{made['id']}"
    assert http.get(path).json == made == http.items("/webhooks")[0]
    rotated = http.post(f"{path}/rotate", json={"overlap_s": 60})
    assert rotated.json["secret"] not in ("", secret)
    assert rotated.json["old_secret_until"] is not None
    assert rotated.headers["Cache-Control"] == "no-store"
    for each in (http.get(path), http.get("/webhooks"), http.get("/events"), http.get(f"{path}/deliveries")):
        assert "whsec_" not in each.text
    assert "hidden" not in http.get("/events").text


def test_a_repetition_under_the_same_key_makes_one_webhook_and_shows_no_secret(http):
    headers = {"Idempotency-Key": "k"}
    first, second = (http.post("/webhooks", json=HOOK, headers=headers) for _ in range(2))
    assert (second.status_code, second.json["id"]) == (201, first.json["id"])
    assert second.json["secret"] == ""
    assert len(http.items("/webhooks")) == 1


def test_a_webhook_is_of_a_namespace_or_of_a_model(http):
    http.post("/models", json={"name": "yolo"})
    of_model = http.post("/webhooks", json={"model": "yolo", "url": HOOK["url"]}).json
    of_all = http.post("/webhooks", json=HOOK).json
    assert of_model["model"] == "default/yolo"
    assert {each["id"] for each in http.items("/webhooks?namespace=default", limit=1)} == {of_model["id"], of_all["id"]}
    assert [each["id"] for each in http.items("/webhooks?model=yolo")] == [of_model["id"]]
    for wrong in ({"url": HOOK["url"]}, {**HOOK, "model": "yolo"}):
        assert code(http.post("/webhooks", json=wrong)) == (422, "INVALID_BODY")
    assert code(http.post("/webhooks", json={"model": "other", "url": HOOK["url"]})) == (404, "MODEL_NOT_FOUND")
    assert code(http.post("/webhooks", json={**HOOK, "namespace": "x"})) == (404, "NAMESPACE_NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"url": "http://hooks.example.com/"}, "TARGET_REFUSED"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "TARGET_REFUSED"),
        ({"url": "https://0x7f.1/"}, "TARGET_REFUSED"),
        ({"actions": ["promotion:applied"]}, "UNKNOWN_ACTION"),
    ],
)
def test_what_cannot_be_sent_to_is_refused_when_asked_for(http, body, refusal):
    assert code(http.post("/webhooks", json={**HOOK, **body})) == (422, refusal)
    made = http.post("/webhooks", json=HOOK).json
    assert code(http.patch(f"/webhooks/{made['id']}", json=body)) == (422, refusal)


def test_a_change_is_an_event_and_nothing_is_none(http):
    made = http.post("/webhooks", json=HOOK).json
    path = f"/webhooks/{made['id']}"
    before = len(http.items("/events"))
    assert http.patch(path, json={}).json["actions"] == []
    assert len(http.items("/events")) == before
    changed = http.patch(path, json={"actions": ["version:*"], "url": "https://x.example.com/p", "enabled": False}).json
    assert (changed["actions"], changed["url"], changed["enabled"]) == (
        ["version:*"],
        "https://x.example.com/p",
        False,
    )
    last = http.items("/events")[-1]
    assert last["action"] == "webhook:update"
    assert last["detail"] == {
        "webhook": made["id"],
        "to": "https://x.example.com",
        "actions": ["version:*"],
        "enabled": False,
    }
    assert code(http.post(f"{path}/test")) == (409, "WEBHOOK_DISABLED")


def test_the_log_tells_each_attempt_and_what_is_dead_is_replayed(http, database_of):
    made = http.post("/webhooks", json={**HOOK, "actions": ["model:create"]}).json
    path = f"/webhooks/{made['id']}"
    for name in ("one", "two"):
        http.post("/models", json={"name": name})
    assert http.get(path).json["pending"] == 2
    assert len(sent(database_of, 503)) == 2
    found = http.items(f"{path}/deliveries", limit=1)
    assert [(each["subject"], each["state"]) for each in found] == [("default/two", "dead"), ("default/one", "dead")]
    assert http.get(path).json["dead"] == 2
    [attempt] = found[0]["attempts"]
    assert {**attempt, "at": ""} == {
        "attempt": 1,
        "at": "",
        "status": 503,
        "status_class": "5xx",
        "latency_ms": 12,
        "error": None,
    }
    assert http.post(f"{path}/replay", json={"delivery": found[0]["id"]}).json == {"replayed": 1}
    assert http.post(f"{path}/replay", json={}).json == {"replayed": 1}
    assert http.post(f"{path}/replay", json={}).json == {"replayed": 0}
    assert {work.delivery_id for work in sent(database_of)} == {each["id"] for each in found}
    assert [each["id"] for each in http.items(f"{path}/deliveries?state=delivered")] == [each["id"] for each in found]
    one = http.get(f"{path}/deliveries/{found[0]['id']}").json
    assert [each["status"] for each in one["attempts"]] == [503, 200]
    assert one["next_attempt_at"] is None
    assert code(http.get(f"{path}/deliveries/msg_x")) == (404, "DELIVERY_NOT_FOUND")
    assert code(http.post(f"{path}/replay", json={"delivery": "msg_x"})) == (404, "DELIVERY_NOT_FOUND")
    assert code(http.get(f"{path}/deliveries?state=gone")) == (422, "INVALID_PARAMETER")


def test_a_test_event_is_a_delivery_like_any_other(http, database_of):
    made = http.post("/webhooks", json={**HOOK, "actions": ["model:create"]}).json
    answer = http.post(f"/webhooks/{made['id']}/test")
    assert answer.status_code == 201
    assert (answer.json["action"], answer.json["state"], answer.json["attempts"]) == ("webhook:test", "pending", [])
    [work] = sent(database_of)
    assert work.delivery_id == answer.json["id"]


def test_a_deleted_webhook_is_not_there(http):
    made = http.post("/webhooks", json=HOOK).json
    path = f"/webhooks/{made['id']}"
    assert http.delete(path).status_code == 200
    assert http.items("/webhooks") == []
    for answer in (http.get(path), http.delete(path), http.post(f"{path}/test"), http.get(f"{path}/deliveries")):
        assert code(answer) == (404, "WEBHOOK_NOT_FOUND")
    assert code(http.get("/webhooks/nonsense")) == (404, "WEBHOOK_NOT_FOUND")


def test_only_an_admin_of_the_namespace_manages_webhooks(http, make_token):
    made = http.post("/webhooks", json=HOOK).json
    path = f"/webhooks/{made['id']}"
    stranger, promoter, admin = make_token("sam"), make_token("pia", "promoter"), make_token("nora", "admin")
    asks = [
        lambda token: http.get(path, token=token),
        lambda token: http.patch(path, json={}, token=token),
        lambda token: http.get(f"{path}/deliveries", token=token),
        lambda token: http.post(f"{path}/rotate", json={}, token=token),
        lambda token: http.post(f"{path}/replay", json={}, token=token),
        lambda token: http.post(f"{path}/test", token=token),
        lambda token: http.delete(path, token=token),
    ]
    for ask in asks:
        assert code(ask(stranger)) == (404, "WEBHOOK_NOT_FOUND")
        assert code(ask(promoter)) == (403, "PERMISSION_DENIED")
        assert ask(admin).status_code in (200, 201)


def test_an_overlap_has_bounds(http):
    made = http.post("/webhooks", json=HOOK).json
    for wrong in (-1, timedelta(days=8).total_seconds()):
        answer = http.post(f"/webhooks/{made['id']}/rotate", json={"overlap_s": int(wrong)})
        assert code(answer) == (422, "INVALID_BODY")
    assert http.post(f"/webhooks/{made['id']}/rotate", json={"overlap_s": 0}).json["old_secret_until"] is None
