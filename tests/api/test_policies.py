"""Policies and stages: what may be set, for whom it counts, and who may."""

import jsonschema_rs
import pytest

from tests.support.factories import make_model, make_versions
from tests.support.world import code

MODEL = "/models/vision/yolo"
POLICY = f"{MODEL}/stages/production/policy"
SHARED = "/namespaces/vision/stages/production/policy"
ONE = {"approvals": {"required": 1}}
NULL = {"data": "null", "content_type": "application/json"}
NOTHING: dict[str, object] = {
    "stage": "production", "scope": None, "revision": 0, "policy": {}, "message": "", "by": None, "at": None
}  # fmt: skip


@pytest.fixture(autouse=True)
def model(app, database):
    with database.transaction() as session:
        make_versions(session, make_model(session, "vision/yolo"), 2)
        make_model(session, "vision/other")


def test_without_a_policy_nothing_is_asked(http):
    assert http.get(POLICY).json == NOTHING
    assert http.get(SHARED).json == NOTHING
    assert http.items(f"{POLICY}/revisions") == []


def test_a_policy_is_set_revised_and_told_with_its_reason(http):
    first = http.put(f"{POLICY}?message=two eyes", json=ONE).json
    assert first.items() >= {
        "scope": "model", "revision": 1, "policy": ONE, "message": "two eyes", "by": "admin",
    }.items()  # fmt: skip
    assert http.get(POLICY).json == first
    second = http.put(POLICY, json=ONE | {"freeze": "the fair"}).json
    assert http.items(f"{POLICY}/revisions", limit=1) == [second, first]
    assert http.put(POLICY, json=second["policy"]).json == second
    event = http.items("/events?namespace=vision")[-1]
    assert (event["action"], event["subject"]) == ("policy:set", "vision/yolo@production")
    assert event["detail"] == {"revision": 2, "policy": second["policy"], "message": ""}


@pytest.mark.parametrize("path", [POLICY, SHARED])
def test_if_match_guards_a_policy(http, path):
    read = http.get(path).headers["ETag"]
    assert http.put(path, json=ONE, headers={"If-Match": read}).status_code == 200
    assert code(http.put(path, json={}, headers={"If-Match": read})) == (412, "PRECONDITION_FAILED")
    assert http.get(path).json["policy"] == ONE
    assert http.get(path, headers={"If-None-Match": http.get(path).headers["ETag"]}).status_code == 304
    assert http.put(path, json={}, headers={"If-Match": http.get(path).headers["ETag"]}).status_code == 200


def test_a_models_own_policy_comes_before_its_namespaces_and_gives_way_when_it_is_taken_away(http):
    shared = http.put(SHARED, json=ONE).json
    assert (shared["scope"], http.get(POLICY).json) == ("namespace", shared)
    http.put(POLICY, json={})
    assert http.get(POLICY).json["scope"] == "model"
    assert http.get("/models/vision/other/stages/production/policy").json == shared
    assert http.put(POLICY, **NULL).json == shared
    assert http.get(POLICY).json == shared
    assert [each["policy"] for each in http.items(f"{POLICY}/revisions")] == [None, {}]
    assert http.put(SHARED, **NULL).json == NOTHING


def test_a_document_that_breaks_a_rule_is_refused_where_it_does(http):
    refused = http.put(POLICY, json={"gates": [{"kind": "metric", "metric": "mAP", "op": "=", "value": 1}]})
    assert code(refused) == (422, "INVALID_POLICY")
    assert refused.json["at"] == "gates[0].op"
    assert code(http.put(POLICY, json=[])) == (422, "INVALID_BODY")
    assert code(http.put(POLICY, json={"gates": [{"kind": []}]})) == (422, "INVALID_POLICY")
    assert http.items(f"{POLICY}/revisions") == []


def test_the_schema_is_valid_and_takes_what_the_server_takes(http):
    schema = http.get("/policy-schema").json
    jsonschema_rs.meta.validate(schema)
    whole = ONE | {"gates": [{"kind": "no_nan"}], "auto": {}, "require_stage": {"stage": "staging"}}
    assert jsonschema_rs.is_valid(schema, whole)
    assert http.put(POLICY, json=whole).status_code == 200
    assert not jsonschema_rs.is_valid(schema, {"gates": [{"kind": "moon"}]})


def test_only_admins_of_the_namespace_set_policies_and_stages(http, make_token):
    promoter, boss = make_token("pat", "promoter", "vision"), make_token("max", "admin", "vision")
    for path, sent in ((POLICY, {}), (SHARED, ONE), (f"{MODEL}/stages", {"stages": None})):
        assert code(http.put(path, json=sent, token=promoter)) == (403, "PERMISSION_DENIED")
        assert http.put(path, json=sent, token=boss).status_code == 200
    assert http.get(POLICY, token=promoter).status_code == 200


def test_another_namespace_is_not_there(http, make_token):
    stranger = make_token("eve", "admin", "elsewhere")
    for path in (POLICY, SHARED, f"{POLICY}/revisions", "/namespaces/vision/stages", f"{MODEL}/history"):
        assert code(http.get(path, token=stranger))[0] == 404
    for path in (POLICY, SHARED, "/namespaces/vision/stages", f"{MODEL}/stages"):
        assert code(http.put(path, json={}, token=stranger))[0] == 404


def test_a_namespace_and_a_model_name_their_stages(http):
    named = http.put("/namespaces/vision/stages", json={"stages": ["canary", "production"]}).json
    assert named == {"stages": ["canary", "production"], "scope": "namespace"}
    assert http.get("/namespaces/vision/stages").json == named
    assert [each["stage"] for each in http.items(f"{MODEL}/stages")] == ["canary", "production"]
    own = http.put(f"{MODEL}/stages", json={"stages": ["live"]}).json
    assert own == {"stages": ["live"], "scope": "model"}
    assert http.post(f"{MODEL}/stages/live/promotions", json={"version": 1}).status_code == 201
    assert [each["stage"] for each in http.items("/models/vision/other/stages")] == ["canary", "production"]
    assert code(http.put(f"{MODEL}/stages", json={"stages": None})) == (409, "STAGE_IN_USE")
    http.post(f"{MODEL}/stages/live/promotions", json={"version": None})
    assert http.put(f"{MODEL}/stages", json={"stages": None}).json == named
    assert http.put("/namespaces/vision/stages", json={"stages": None}).json["scope"] == "server"


@pytest.mark.parametrize(
    ("names", "refusal"),
    [
        (["a", "a"], (422, "STAGE_TWICE")),
        (["Canary"], (422, "INVALID_POINTER_NAME")),
        (["latest"], (422, "RESERVED_NAME")),
        ([], (422, "INVALID_BODY")),
        (["champion"], (409, "STAGE_NAME_TAKEN")),
    ],
)
def test_stages_that_break_a_rule_are_refused(http, names, refusal):
    assert http.put(f"{MODEL}/aliases/champion", json={"number": 1}).status_code == 200
    for path in (f"{MODEL}/stages", "/namespaces/vision/stages"):
        assert code(http.put(path, json={"stages": names})) == refusal


def test_a_policy_may_only_name_a_stage_there_is(http):
    assert code(http.put(POLICY, json={"require_stage": {"stage": "canary"}})) == (422, "INVALID_POLICY")
    for path in (f"{MODEL}/stages/canary/policy", "/namespaces/vision/stages/canary/policy"):
        assert code(http.get(path)) == (404, "STAGE_NOT_FOUND")
        assert code(http.put(path, json={})) == (404, "STAGE_NOT_FOUND")
