from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert

from registry.db.tables import Metric
from registry.services import deciding, pointers, policies, promotions, proposing, stages
from registry.services.actors import SYSTEM, PermissionDeniedError
from registry.services.deciding import EvidenceChangedError, NotAnApproverError, PromotionClosedError
from registry.services.pointers import StageNameTakenError
from registry.services.policies import Change, PolicyMovedError
from registry.services.proposing import ReasonRequiredError, StageFrozenError
from registry.services.stages import StageInUseError, StageTwiceError
from tests.support.factories import events, make_version
from tests.support.world import T0

STAGES = ("staging", "production")
ONE = {"approvals": {"required": 1}}
BEATS = {"gates": [{"kind": "beats_incumbent", "metric": "mAP", "direction": "max"}]}


def holder(session, model, stage="production"):
    pointer = pointers.find_stage(session, model, stage)
    return pointer.number if pointer is not None else None


def measure(session, version, value, name="mAP", dataset="coco"):
    row = {"version_id": version.id, "name": name, "value": value, "dataset": dataset, "recorded_by": "ana"}
    session.execute(insert(Metric), [row | {"recorded_at": T0}])


def test_without_a_policy_a_promotion_applies_at_once(session, model, propose):
    assert propose(1).state == "applied"
    assert holder(session, model) == 1


def test_the_last_approval_applies_the_promotion(session, model, asks, propose, approve):
    asks({"approvals": {"required": 2}})
    promotion = propose(1)
    assert (promotion.state, promotion.seq, holder(session, model)) == ("pending", None, None)
    assert approve(promotion, "pat").state == "pending"
    assert approve(promotion, "pia").state == "applied"
    assert holder(session, model) == 1
    assert [action for action, *_ in events(session, "promotion:request", "promotion:approve", "promotion:apply")] == [
        "promotion:request", "promotion:approve", "promotion:approve", "promotion:apply",
    ]  # fmt: skip


def test_two_approvals_of_one_person_are_one(session, asks, propose, approve, make_actor):
    asks({"approvals": {"required": 2}})
    promotion = propose(1)
    approve(promotion, "pat")
    other_token = replace(make_actor("pat", "promoter"), token_id=4711, token_name="laptop")
    assert deciding.approve(session, other_token, promotion.id, stages=STAGES, now=T0)[0].state == "pending"
    assert len(deciding.counting(session, promotion)) == 1


@pytest.mark.parametrize("who", ["rita", "ana"])
def test_neither_the_requester_nor_the_uploader_approves(asks, propose, approve, who):
    asks(ONE)
    promotion = propose(1)  # ana uploaded it
    with pytest.raises(NotAnApproverError):
        approve(promotion, who)


def test_only_the_role_or_the_users_that_the_policy_names_approve(asks, propose, approve):
    asks({"approvals": {"required": 1, "role": "admin"}})
    promotion = propose(1)
    with pytest.raises(NotAnApproverError):
        approve(promotion, "pat", "promoter")
    assert approve(promotion, "max", "admin").state == "applied"
    asks({"approvals": {"required": 1, "users": ["Grace"]}})
    promotion = propose(2)
    with pytest.raises(NotAnApproverError):
        approve(promotion, "max", "admin")
    assert approve(promotion, "grace").state == "applied"


def test_who_may_not_decide_does_not(asks, propose, approve):
    asks(ONE)
    with pytest.raises(PermissionDeniedError):
        approve(propose(1), "wim", "writer")


def test_a_rejection_ends_it(session, asks, propose, approve, make_actor):
    asks(ONE)
    promotion = propose(1)
    rejected, _ = deciding.reject(session, make_actor("pat", "promoter"), promotion.id, now=T0, comment="blurred")
    assert (rejected.state, rejected.seq) == ("rejected", None)
    with pytest.raises(PromotionClosedError):
        approve(promotion, "pia")


def test_the_requester_or_an_admin_cancels(session, asks, propose, make_actor):
    asks(ONE)
    first, second = propose(1), propose(2)
    with pytest.raises(PermissionDeniedError):
        deciding.cancel(session, make_actor("pat", "promoter"), first.id, now=T0)
    assert deciding.cancel(session, make_actor("rita", "promoter"), first.id, now=T0)[0].state == "cancelled"
    assert deciding.cancel(session, make_actor("max", "admin"), second.id, now=T0)[0].state == "cancelled"


def test_pending_promotions_expire(session, asks, propose, approve):
    asks(ONE | {"expires_s": 60})
    promotion = propose(1)
    late = T0 + timedelta(seconds=61)
    with pytest.raises(PromotionClosedError):
        approve(promotion, now=late)
    assert deciding.expire(session, limit=10, now=T0 + timedelta(seconds=59)) == 0
    assert deciding.expire(session, limit=10, now=late) == 1
    assert promotion.state == "expired"
    assert deciding.expire(session, limit=10, now=late) == 0


def test_a_failed_gate_is_on_record_and_moves_nothing(session, model, asks, propose):
    asks({"gates": [{"kind": "tag", "key": "checked", "value": "yes"}]})
    promotion = propose(1)
    assert (promotion.state, promotion.seq, holder(session, model)) == ("failed", None, None)
    assert promotion.gates == [
        {"kind": "tag", "passed": False, "reason": "The tag checked is not set.", "evidence": {"value": None}}
    ]
    assert [action for action, *_ in events(session, "promotion:fail")] == ["promotion:fail"]
    assert promotions.history(session, model, "production", before=None, limit=10) == []


def test_evidence_still_computed_makes_it_wait_and_its_arrival_applies_it(session, model, asks, propose):
    asks({"gates": [{"kind": "verified"}]})
    version = make_version(session, model, integrity="unverified")
    promotion = propose(version.number)
    assert (promotion.state, promotion.gates[0]["passed"]) == ("pending", None)
    version.integrity = "verified"
    session.flush()
    assert deciding.reconsider(session, version.id, stages=STAGES, now=T0) == 1
    assert (promotion.state, holder(session, model)) == ("applied", version.number)


def test_evidence_that_turns_out_bad_fails_it(session, model, asks, propose):
    asks({"gates": [{"kind": "verified"}]})
    version = make_version(session, model, integrity="unverified")
    promotion = propose(version.number)
    version.integrity = "damaged"
    session.flush()
    deciding.reconsider(session, version.id, stages=STAGES, now=T0)
    assert promotion.state == "failed"


def test_an_approval_lapses_when_the_evidence_changes(session, model, asks, propose, approve):
    asks(BEATS | {"approvals": {"required": 2}})
    first, second, *_ = versions_of(session, model)
    measure(session, first, 0.5)
    propose_and_force(session, model, first)
    measure(session, second, 0.6)
    promotion = propose(second.number)
    seen = promotion.evidence_sha256
    approve(promotion, "pat", seen=seen)
    measure(session, second, 0.7)
    with pytest.raises(EvidenceChangedError):
        approve(promotion, "pia", seen=seen)
    assert approve(promotion, "pia").state == "pending"
    assert [each.user_name for each in deciding.counting(session, promotion)] == ["pia"]


def test_a_stage_that_moved_lapses_approvals_and_judges_the_others_anew(session, model, asks, propose, approve):
    asks(BEATS | {"approvals": {"required": 1}})
    versions = versions_of(session, model)
    for version, value in zip(versions, (0.5, 0.6, 0.7, 0.8), strict=True):
        measure(session, version, value)
    low, high, higher = (propose(number) for number in (1, 2, 3))
    assert approve(high).state == "applied"
    assert low.state == "failed"
    assert "not better" in low.gates[0]["reason"]
    assert (higher.state, higher.base_seq, higher.previous) == ("pending", 1, 2)
    assert approve(higher).state == "applied"
    assert holder(session, model) == 3


def test_a_forced_promotion_needs_an_admin_and_a_reason_and_keeps_what_the_gates_said(session, model, asks, propose):
    asks({"gates": [{"kind": "tag", "key": "checked", "value": "yes"}], "freeze": "holidays"})
    with pytest.raises(PermissionDeniedError):
        propose(1, kind="force", message="now")
    with pytest.raises(ReasonRequiredError):
        propose(1, by="max", role="admin", kind="force", message=" ")
    promotion = propose(1, by="max", role="admin", kind="force", message="the old one is down")
    assert (promotion.state, promotion.kind, promotion.gates[0]["passed"]) == ("applied", "force", False)


def test_nothing_moves_while_a_stage_is_frozen(session, model, asks, propose, make_actor):
    propose(1), propose(2)
    asks({"freeze": "until Monday"})
    rita = make_actor("rita", "promoter")
    for ask in (
        lambda: propose(3),
        lambda: proposing.demote(session, rita, model, "production", stages=STAGES, now=T0),
        lambda: proposing.rollback(session, rita, model, "production", None, stages=STAGES, now=T0),
    ):
        with pytest.raises(StageFrozenError, match="until Monday"):
            ask()
    assert holder(session, model) == 2


def test_a_rollback_meets_no_gate_and_skips_approvals_only_if_the_policy_says_so(
    session, model, asks, propose, make_actor
):
    propose(1), propose(2)
    asks(BEATS | ONE)
    rita = make_actor("rita", "promoter")
    back = proposing.rollback(session, rita, model, "production", None, stages=STAGES, now=T0)
    assert (back.state, back.gates) == ("pending", [])
    asks(BEATS | ONE | {"rollback_skips_approvals": True})
    again = proposing.rollback(
        session, rita, model, "production", None, stages=STAGES, now=T0, message="worse at night"
    )
    assert (again.state, holder(session, model)) == ("applied", 1)


def test_a_version_must_have_held_another_stage_for_long_enough(session, asks, propose):
    asks({"require_stage": {"stage": "staging", "soak_s": 3600}})
    assert propose(1).state == "failed"
    propose(1, stage="staging")
    assert propose(1, now=T0 + timedelta(seconds=3599)).state == "failed"
    assert propose(1, now=T0 + timedelta(seconds=3600)).state == "applied"


def test_the_time_on_a_stage_ends_when_another_takes_it(session, asks, propose):
    asks({"require_stage": {"stage": "staging", "soak_s": 3600}})
    propose(1, stage="staging")
    propose(2, stage="staging", now=T0 + timedelta(seconds=60))
    promotion = propose(1, now=T0 + timedelta(days=1))
    assert (promotion.state, promotion.gates[-1]["evidence"]["held_s"]) == ("failed", 60)


def test_a_preview_says_what_would_become_of_it_and_writes_nothing(session, model, asks, make_actor):
    asks({"gates": [{"kind": "tag", "key": "checked", "value": "yes"}, {"kind": "verified"}]})
    before = events(session, "promotion:fail", "promotion:request")
    judged = proposing.preview(session, make_actor("rob", "reader"), model, "production", 1, stages=STAGES, now=T0)
    assert [(each.kind, each.passed) for each in judged.results] == [("tag", False), ("verified", True)]
    assert events(session, "promotion:fail", "promotion:request") == before
    assert promotions.page_of_promotions(session, model, "production", state=None, before=None, limit=10) == []


def test_a_policy_is_revised_and_the_same_again_changes_nothing(session, admin, model, asks):
    first = asks(ONE)
    assert asks(ONE) is first
    second = asks({})
    assert (first.revision, second.revision) == (1, 2)
    with pytest.raises(PolicyMovedError):
        policies.set_for_model(session, admin, model, "production", Change(ONE, expect=1), stages=STAGES, now=T0)


def test_a_models_own_policy_comes_before_its_namespaces(session, admin, model, asks):
    shared = policies.set_for_namespace(
        session, admin, model.namespace, "production", Change(ONE), stages=STAGES, now=T0
    )
    assert policies.in_force(session, model, "production") is shared
    own = asks({})
    assert policies.in_force(session, model, "production") is own
    asks(None)
    assert policies.in_force(session, model, "production") is shared


def test_only_admins_set_policies(session, model, make_actor):
    actor = make_actor("pat", "promoter")
    with pytest.raises(PermissionDeniedError):
        policies.set_for_model(session, actor, model, "production", Change({}), stages=STAGES, now=T0)


def test_a_model_names_stages_of_its_own(session, admin, model, propose):
    names = ("canary", "production")
    assert stages.set_for_model(session, admin, model, names, stages=STAGES, now=T0) == names
    assert propose(1, stage="canary").state == "applied"
    with pytest.raises(StageInUseError):
        stages.set_for_model(session, admin, model, ["production"], stages=STAGES, now=T0)
    with pytest.raises(StageTwiceError):
        stages.set_for_model(session, admin, model, ["canary", "canary"], stages=STAGES, now=T0)


def test_a_new_stage_may_not_have_the_name_of_an_alias(session, admin, model):
    pointers.point(session, admin, model, "canary", 1, stages=STAGES, now=T0)
    with pytest.raises(StageNameTakenError, match="default/m"):
        stages.set_for_namespace(session, admin, model.namespace, ["canary"], stages=STAGES, now=T0)


def versions_of(session, model):
    return [pointers.ready_version(session, model, number) for number in range(1, model.last_version + 1)]


def propose_and_force(session, model, version):
    proposing.promote(
        session, SYSTEM, model, "production", version.number, stages=STAGES, now=T0, kind="force", message="first"
    )


def test_what_was_asked_for_before_a_freeze_waits_until_it_is_over(session, model, asks, propose, approve):
    asks(ONE)
    waiting = propose(2)
    asks(ONE | {"freeze": "the fair"})
    assert approve(waiting).state == "pending"
    assert holder(session, model) is None
    asks(ONE)
    deciding.reconsider_stage(session, model, "production", stages=STAGES, now=T0)
    assert waiting.state == "applied"
    assert holder(session, model) == 2


def test_time_alone_makes_no_approval_lapse(asks, propose, approve):
    propose(2, stage="staging")
    asks({"approvals": {"required": 2}, "require_stage": {"stage": "staging", "soak_s": 60}})
    waiting = propose(2, now=T0 + timedelta(seconds=61))
    approve(waiting, "pat", now=T0 + timedelta(seconds=70))
    assert approve(waiting, "quinn", now=T0 + timedelta(seconds=900)).state == "applied"
