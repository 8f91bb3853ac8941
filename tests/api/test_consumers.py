import pytest

from tests.support.pushing import push, weights
from tests.support.world import code

MODEL = "/models/vision/yolo"


@pytest.fixture
def model(http, make_token):
    make_token("ana", "reader", "vision")
    for value in (1.0, 2.0):
        push(http, "vision/yolo", {"m.safetensors": weights(value)})
    http.post(f"{MODEL}/stages/production/promotions", json={"version": 1})


def register(http, name="edge-1", number=None, **more):
    body = {"name": name, "follows": "vision/yolo@production", "number": number, "state": "running"}
    return http.post(f"{MODEL}/consumers", json=body, **more)


def test_a_consumer_registers_reports_and_signs_off(http, model):
    made = register(http)
    assert made.status_code == 201
    assert made.json["lease_s"] == 120
    path = f"/consumers/{made.json['id']}"
    told = http.put(path, json={"number": 1, "seq": 1, "state": "running", "detail": ""})
    assert (told.status_code, told.json["number"], told.json["by"]) == (200, 1, "admin")
    assert told.json["expires_at"] >= made.json["expires_at"]
    assert http.items(f"{MODEL}/consumers", limit=1) == [told.json]
    assert http.delete(path).status_code == 204
    assert http.items(f"{MODEL}/consumers") == []
    assert code(http.put(path, json={"state": "running"})) == (404, "CONSUMER_NOT_FOUND")
    assert code(http.delete("/consumers/x")) == (404, "CONSUMER_NOT_FOUND")


def test_a_stage_says_how_many_run_which_version(http, model):
    for name, number in (("a", 1), ("b", 1), ("c", 2), ("d", None)):
        register(http, name, number)
    expected = {"2": 1, "1": 2}
    stages = {each["stage"]: each["consumers"] for each in http.get(f"{MODEL}/stages").json["items"]}
    assert stages == {"staging": {}, "production": expected}
    assert http.get(f"{MODEL}/stages/production").json["consumers"] == expected
    assert http.get(MODEL).json["stages"][1]["consumers"] is None


def test_whoever_follows_a_stage_is_told_nothing_while_it_stays(http, model):
    found = http.get(f"{MODEL}/stages/production")
    register(http, number=1)
    asked = {"If-None-Match": found.headers["ETag"]}
    assert http.get(f"{MODEL}/stages/production", headers=asked).status_code == 304
    http.post(f"{MODEL}/stages/production/promotions", json={"version": 2})
    assert http.get(f"{MODEL}/stages/production", headers=asked).json["version"] == 2


def test_a_preview_says_whom_the_promotion_would_reach(http, model):
    for name in ("a", "b"):
        register(http, name)
    asked = http.post(f"{MODEL}/stages/production/promotions?dry_run=1", json={"version": 2})
    assert asked.json["consumers"] == 2
    assert http.post(f"{MODEL}/stages/staging/promotions?dry_run=1", json={"version": 2}).json["consumers"] == 0


def test_readers_report_and_others_see_nothing(http, model, make_token):
    carl = make_token("carl", "admin", "audio")
    assert register(http, token=make_token("ana")).status_code == 201
    assert code(register(http, token=carl)) == (404, "MODEL_NOT_FOUND")
    assert code(http.get(f"{MODEL}/consumers", token=carl)) == (404, "MODEL_NOT_FOUND")


def test_what_a_consumer_says_is_no_event(http, model):
    before = http.get("/events/head?namespace=vision").json
    http.put(f"/consumers/{register(http).json['id']}", json={"number": 1})
    assert http.get("/events/head?namespace=vision").json == before


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"follows": "vision/other@production"}, (422, "FOLLOWS_ANOTHER_MODEL")),
        ({"follows": "vision/yolo:x"}, (422, "INVALID_REFERENCE")),
        ({"number": 9}, (404, "VERSION_NOT_FOUND")),
        ({"state": "sleeping"}, (422, "INVALID_BODY")),
        ({"name": ""}, (422, "INVALID_BODY")),
    ],
)
def test_what_makes_no_sense_is_refused(http, model, body, refusal):
    whole = {"name": "edge", "follows": "vision/yolo@production"} | body
    assert code(http.post(f"{MODEL}/consumers", json=whole)) == refusal
