"""Promotions that have to meet something: gates, approvals, time; over HTTP."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from registry.db.tables import Promotion
from registry.domain import gates
from registry.domain.gates import fails, gate, passes
from registry.services import automation, deciding, pointers
from tests.support.factories import make_model, make_version, make_versions
from tests.support.world import T0, code

MODEL = "/models/vision/yolo"
STAGES = f"{MODEL}/stages"
PRODUCTION = f"{STAGES}/production"
CHECKED = {"kind": "tag", "key": "checked", "value": "yes"}
ONE = {"approvals": {"required": 1}}


@pytest.fixture(autouse=True)
def model(app, database):
    with database.transaction() as session:
        found = make_model(session, "vision/yolo")
        make_versions(session, found, 3)
        make_version(session, found, integrity="unverified")
    return found


@pytest.fixture
def promoter(make_token):
    return make_token("rita", "promoter", "vision")


@pytest.fixture
def approver(make_token):
    return make_token("pat", "promoter", "vision")


def asks(http, policy, stage="production"):
    answer = http.put(f"{STAGES}/{stage}/policy", json=policy)
    assert answer.status_code == 200, answer.text
    return answer.json


def promote(http, version, token="", **more):
    return http.post(f"{PRODUCTION}/promotions", json={"version": version} | more, token=token)


def decide(http, promotion, decision, token="", **sent):
    return http.post(f"/promotions/{promotion['id']}/{decision}", json=sent, token=token)


def holder(http):
    return http.get(PRODUCTION).json["version"]


def test_what_waits_for_approvals_is_accepted_and_the_last_one_applies_it(http, promoter, approver):
    asks(http, ONE)
    asked = promote(http, 1, promoter, message="better at night")
    assert asked.status_code == 202, asked.text
    waiting = asked.json
    assert waiting.items() >= {
        "state": "pending", "seq": None, "version": 1, "previous": None, "by": "rita", "missing_approvals": 1,
        "policy_revision": 1, "approvals": [], "gates": [], "message": "better at night",
    }.items()  # fmt: skip
    assert waiting["expires_at"] > waiting["requested_at"]
    assert holder(http) is None
    agreed = decide(http, waiting, "approve", approver, comment="looks good", evidence=waiting["evidence"])
    assert agreed.status_code == 200, agreed.text
    assert agreed.json.items() >= {"state": "applied", "seq": 1, "missing_approvals": 0}.items()
    [approval] = agreed.json["approvals"]
    assert approval.items() >= {"by": "pat", "decision": "approve", "comment": "looks good", "lapsed_at": None}.items()
    [entry] = http.items(f"{PRODUCTION}/history")
    assert entry.items() >= {"by": "rita", "approved_by": ["pat"], "id": waiting["id"], "until": None}.items()


def test_gates_that_are_not_met_refuse_and_are_on_record(http):
    asks(http, {"gates": [CHECKED, {"kind": "no_pickle"}]})
    refused = promote(http, 1)
    assert code(refused) == (422, "GATES_FAILED")
    assert refused.json["gates"] == [
        {"kind": "tag", "passed": False, "reason": "The tag checked is not set.", "evidence": {"value": None}},
        {"kind": "no_pickle", "passed": True, "reason": "No file is a pickle.", "evidence": {}},
    ]
    record = http.get(f"/promotions/{refused.json['id']}").json
    assert record.items() >= {"state": "failed", "seq": None, "gates": refused.json["gates"]}.items()
    assert http.items(f"{PRODUCTION}/promotions?state=failed") == [record]
    assert (holder(http), http.items(f"{PRODUCTION}/history")) == (None, [])
    assert [event["action"] for event in http.items("/events?namespace=vision")][-1] == "promotion:fail"


def test_a_refusal_that_is_on_record_is_repeated_word_for_word_under_its_key(http):
    asks(http, {"gates": [CHECKED]})
    key = {"Idempotency-Key": "ci-7"}
    first, again = (http.post(f"{PRODUCTION}/promotions", json={"version": 1}, headers=key) for _ in range(2))
    assert code(first) == (422, "GATES_FAILED")
    assert (again.status_code, again.data, again.mimetype) == (422, first.data, first.mimetype)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(http.items(f"{PRODUCTION}/promotions")) == 1
    http.put(f"{MODEL}/versions/1/tags/checked", json={"value": "yes"})
    assert http.post(f"{PRODUCTION}/promotions", json={"version": 1}, headers=key).status_code == 422
    assert promote(http, 1).status_code == 201


def test_an_approval_under_its_key_counts_once_and_answers_the_same(http, promoter, approver):
    asks(http, ONE)
    waiting = promote(http, 1, promoter).json
    sent = {"json": {}, "token": approver, "headers": {"Idempotency-Key": "a"}}
    first, again = (http.post(f"/promotions/{waiting['id']}/approve", **sent) for _ in range(2))
    assert (first.status_code, first.json["state"], again.data) == (200, "applied", first.data)
    assert len(http.items(f"{PRODUCTION}/history")) == 1


def test_a_dry_run_says_what_would_become_of_it_and_changes_nothing(http, make_token):
    reader = make_token("rob", "reader", "vision")
    asks(http, {"gates": [CHECKED]} | ONE)
    before = http.items("/events?namespace=vision")
    dry = http.post(f"{PRODUCTION}/promotions?dry_run=1", json={"version": 1}, token=reader)
    assert dry.status_code == 200, dry.text
    assert dry.json.items() >= {
        "model": "vision/yolo", "stage": "production", "version": 1, "outcome": "failed", "required_approvals": 1,
        "policy_revision": 1, "freeze": None,
    }.items()  # fmt: skip
    assert [(each["kind"], each["passed"]) for each in dry.json["gates"]] == [("tag", False)]
    assert http.items(f"{PRODUCTION}/promotions") == []
    assert http.items("/events?namespace=vision") == before
    assert code(http.post(f"{PRODUCTION}/promotions?dry_run=0", json={"version": 1}, token=reader))[0] == 403
    assert code(http.post(f"{PRODUCTION}/promotions?dry_run=yes", json={"version": 1}))[0] == 422
    assert code(http.post(f"{PRODUCTION}/promotions?dry_run=1", json={"version": None}))[0] == 422


@pytest.mark.parametrize(
    ("policy", "version", "outcome"),
    [
        ({}, 1, "applied"),
        (ONE, 1, "pending"),
        ({"gates": [{"kind": "verified"}]}, 4, "pending"),
        ({"freeze": "the fair"}, 1, "frozen"),
        ({"require_stage": {"stage": "staging"}}, 1, "failed"),
    ],
)
def test_a_dry_run_foretells_the_outcome(http, policy, version, outcome):
    asks(http, policy)
    dry = http.post(f"{PRODUCTION}/promotions?dry_run=1", json={"version": version})
    assert dry.json["outcome"] == outcome
    expected = {"applied": 201, "pending": 202, "frozen": 409, "failed": 422}[outcome]
    assert promote(http, version).status_code == expected


def test_an_admin_forces_with_a_reason_and_that_shows_for_ever(http, promoter):
    asks(http, {"gates": [CHECKED], "freeze": "the fair"} | ONE)
    assert code(promote(http, 1)) == (409, "STAGE_FROZEN")
    assert code(promote(http, 1, promoter, force=True, message="now"))[0] == 403
    assert code(promote(http, 1, force=True)) == (422, "REASON_REQUIRED")
    forced = promote(http, 1, force=True, message="the old one is down")
    assert forced.status_code == 201, forced.text
    [entry] = http.items(f"{PRODUCTION}/history")
    assert entry.items() >= {"kind": "force", "by": "admin", "message": "the old one is down"}.items()
    assert [gate["passed"] for gate in entry["gates"]] == [False]
    event = http.items("/events?namespace=vision")[-1]
    assert (event["action"], event["detail"]["kind"]) == ("promotion:apply", "force")


def test_a_rejection_or_taking_it_back_ends_it(http, promoter, approver):
    asks(http, ONE)
    first, second = promote(http, 1, promoter).json, promote(http, 2, promoter).json
    refused = decide(http, first, "reject", approver, comment="blurred")
    assert (refused.status_code, refused.json["state"]) == (200, "rejected")
    assert refused.json["approvals"][0].items() >= {"decision": "reject", "comment": "blurred"}.items()
    assert code(decide(http, second, "cancel", approver))[0] == 403
    assert decide(http, second, "cancel", promoter).json["state"] == "cancelled"
    for gone in (first, second):
        for decision in ("approve", "reject", "cancel"):
            closed = decide(http, gone, decision)
            assert code(closed) == (409, "PROMOTION_CLOSED")
            assert closed.json["state"] in ("rejected", "cancelled")
    assert holder(http) is None


def test_who_asked_or_uploaded_does_not_count(http, promoter, make_token):
    asks(http, ONE)
    waiting = promote(http, 1, promoter).json
    assert code(decide(http, waiting, "approve", promoter)) == (403, "NOT_AN_APPROVER")
    assert code(decide(http, waiting, "approve", make_token("ana", "promoter", "vision"))) == (403, "NOT_AN_APPROVER")
    assert code(decide(http, waiting, "approve", make_token("wim", "writer", "vision"))) == (403, "PERMISSION_DENIED")


def test_an_approval_of_evidence_that_has_changed_is_refused(http, promoter, approver):
    asks(http, ONE | {"gates": [{"kind": "metric", "metric": "mAP", "op": ">=", "value": 0.5}]})
    measure(http, 1, 0.6)
    waiting = promote(http, 1, promoter).json
    measure(http, 1, 0.7)
    refused = decide(http, waiting, "approve", approver, evidence=waiting["evidence"])
    assert code(refused) == (409, "EVIDENCE_CHANGED")
    assert refused.json["evidence"] != waiting["evidence"].removeprefix("sha256:")
    assert http.get(f"/promotions/{waiting['id']}").json["approvals"] == []
    assert decide(http, waiting, "approve", approver).json["state"] == "applied"


def test_an_approval_that_finds_a_gate_failed_is_a_refusal_on_record(http, promoter, approver):
    asks(http, ONE | {"gates": [{"kind": "metric", "metric": "mAP", "op": ">=", "value": 0.5}]})
    measure(http, 1, 0.6)
    waiting = promote(http, 1, promoter).json
    measure(http, 1, 0.1)
    refused = decide(http, waiting, "approve", approver)
    assert code(refused) == (422, "GATES_FAILED")
    assert refused.json["id"] == waiting["id"]
    assert http.get(f"/promotions/{waiting['id']}").json["state"] == "failed"


def test_evidence_that_arrives_applies_what_waits_for_it(http, database):
    asks(http, {"gates": [{"kind": "verified"}]})
    waiting = promote(http, 4)
    assert (waiting.status_code, waiting.json["gates"][0]["passed"]) == (202, None)
    with database.transaction() as session:
        version = make_model(session, "vision/yolo")
        row = pointers.ready_version(session, version, 4)
        row.integrity = "verified"
        session.flush()
        automation.consider(session, row.id, stages=("staging", "production"), now=T0)
    assert holder(http) == 4


def test_a_pending_promotion_whose_time_is_over_is_closed(http, database, promoter, approver):
    asks(http, ONE | {"expires_s": 60})
    waiting = promote(http, 1, promoter).json
    with database.transaction() as session:
        session.execute(update(Promotion).values(expires_at=T0))
    closed = decide(http, waiting, "approve", approver)
    assert (code(closed), closed.json["state"]) == ((409, "PROMOTION_CLOSED"), "expired")
    with database.transaction() as session:
        assert deciding.expire(session, limit=10, now=T0 + timedelta(seconds=1)) == 1
    assert http.get(f"/promotions/{waiting['id']}").json["state"] == "expired"


def test_promotions_are_listed_in_pages_and_by_state(http):
    asks(http, ONE)
    made = [promote(http, number).json["id"] for number in (1, 2, 3)]
    assert [each["id"] for each in http.items(f"{PRODUCTION}/promotions", limit=1)] == made[::-1]
    decide(http, {"id": made[0]}, "cancel")
    assert [each["id"] for each in http.items(f"{PRODUCTION}/promotions?state=pending", limit=1)] == made[:0:-1]
    assert code(http.get(f"{PRODUCTION}/promotions?state=lost"))[0] == 422


def test_a_promotion_of_another_namespace_is_not_there(http, make_token):
    asks(http, ONE)
    waiting = promote(http, 1).json
    stranger = make_token("eve", "admin", "elsewhere")
    for decision in ("approve", "reject", "cancel"):
        assert code(decide(http, waiting, decision, stranger)) == (404, "PROMOTION_NOT_FOUND")
        assert code(http.post(f"/promotions/{'0' * 32}/{decision}", json={})) == (404, "PROMOTION_NOT_FOUND")


def test_a_rollback_waits_for_approvals_unless_the_policy_skips_them(http, promoter, approver):
    promote(http, 1), promote(http, 2)
    asks(http, ONE)
    back = http.post(f"{PRODUCTION}/rollback", json={"message": "it drifts"}, token=promoter)
    assert (back.status_code, back.json["state"], holder(http)) == (202, "pending", 2)
    assert decide(http, back.json, "approve", approver).json["seq"] == 3
    asks(http, ONE | {"rollback_skips_approvals": True})
    forth = http.post(f"{PRODUCTION}/rollback", json={}, token=promoter)
    assert (forth.status_code, holder(http)) == (201, 2)


def test_the_history_is_kept_for_versions_that_were_deleted(http):
    promote(http, 1), promote(http, 2)
    assert http.delete(f"{MODEL}/versions/1").status_code == 200
    history = http.items(f"{PRODUCTION}/history")
    assert [entry["version"] for entry in history] == [2, 1]
    assert http.get(PRODUCTION, query_string={"at": history[1]["at"]}).json["version"] == 1
    assert http.get(f"/promotions/{history[1]['id']}").json["version"] == 1
    assert code(http.post(f"{PRODUCTION}/rollback", json={"to": 1})) == (410, "VERSION_TRASHED")
    assert code(http.post(f"{PRODUCTION}/rollback", json={})) == (409, "NOTHING_TO_ROLL_BACK")


def test_the_history_tells_the_terms_of_a_version_and_what_was_decided_in_a_time(http):
    for version in (1, 2, 1, 3):
        promote(http, version)
    entries = http.items(f"{PRODUCTION}/history")[::-1]
    assert [entry["until"] for entry in entries] == [*(entry["at"] for entry in entries[1:]), None]
    terms = http.items(f"{PRODUCTION}/history?version=1", limit=1)
    assert [(each["seq"], each["until"]) for each in terms] == [(3, entries[3]["at"]), (1, entries[1]["at"])]
    between = http.get(f"{PRODUCTION}/history", query_string={"since": entries[0]["at"], "until": entries[2]["at"]})
    assert [entry["seq"] for entry in between.json["items"]] == [3, 2]
    for wrong in ("version=0", "since=yesterday", "until=2026"):
        assert code(http.get(f"{PRODUCTION}/history?{wrong}")) == (422, "INVALID_PARAMETER")


def test_the_stages_are_compared_at_two_times(http):
    first, second, third = (promote(http, version).json["at"] for version in (1, 2, 3))
    changed = http.get(f"{MODEL}/history", query_string={"since": first, "until": third}).json["items"]
    told = {each["stage"]: (each["before"]["version"], each["after"]["version"], each["moves"]) for each in changed}
    assert told == {"staging": (None, None, 0), "production": (1, 3, 2)}
    assert changed[1]["after"] == http.get(PRODUCTION, query_string={"at": third}).json
    lately = http.get(f"{MODEL}/history", query_string={"since": second}).json["items"]
    assert (lately[1]["before"]["version"], lately[1]["after"]["version"], lately[1]["moves"]) == (2, 3, 1)
    assert code(http.get(f"{MODEL}/history")) == (422, "INVALID_PARAMETER")


def test_a_new_kind_of_gate_is_one_function(http, monkeypatch):
    monkeypatch.setattr(gates, "GATES", gates.GATES)  # what is registered below is taken back
    monkeypatch.setitem(gates.GATES, "even", None)

    @gate("even", least=gates.NUMBER)
    def even(evidence, given):
        """The number of the version is even, and no less than one."""
        number = evidence.candidate.number
        if number % 2 or number < given["least"]:
            return fails(f"{number} is odd or too small.", {"number": number})
        return passes(f"{number} is even.", {"number": number})

    schema = http.get("/policy-schema").json
    assert "even" in [kind["properties"]["kind"]["const"] for kind in schema["properties"]["gates"]["items"]["oneOf"]]
    assert code(http.put(f"{PRODUCTION}/policy", json={"gates": [{"kind": "even"}]})) == (422, "INVALID_POLICY")
    asks(http, {"gates": [{"kind": "even", "least": 1}]})
    refused = promote(http, 1)
    assert code(refused) == (422, "GATES_FAILED")
    assert refused.json["gates"] == [
        {"kind": "even", "passed": False, "reason": "1 is odd or too small.", "evidence": {"number": 1}}
    ]
    assert promote(http, 2).status_code == 201


def measure(http, version, value):
    sent = {"metrics": [{"name": "mAP", "value": value, "dataset": "coco"}]}
    answer = http.post(f"{MODEL}/versions/{version}/metrics", json=sent)
    assert answer.status_code == 201, answer.text
