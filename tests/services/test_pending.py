"""What was asked for a while ago, when the world has changed since."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from registry.db.tables import Approval, Policy
from registry.services import deciding, pointers, policies, promotions, proposing, stages, versions
from registry.services.deciding import PromotionClosedError
from registry.services.pointers import StageNotFoundError
from registry.services.policies import Change
from tests.services.conftest import STAGES
from tests.support.factories import events, make_version
from tests.support.world import T0

ONE, TWO = ({"approvals": {"required": required}} for required in (1, 2))
VERIFIED = {"gates": [{"kind": "verified"}]}


def holder(session, model):
    pointer = pointers.find_stage(session, model, "production")
    return pointer.number if pointer is not None else None


def version(session, model, number):
    return pointers.ready_version(session, model, number)


def reconsider(session, model, now=T0):
    deciding.reconsider_stage(session, model, "production", stages=STAGES, now=now)


@pytest.mark.parametrize(
    "changed", [{"state": "trashed", "trashed_at": T0, "trashed_by": "x"}, {"integrity": "damaged"}]
)
def test_a_version_that_cannot_be_there_any_more_fails_whoever_approves(
    session, model, asks, *, propose, approve, changed
):
    asks(ONE)
    waiting = propose(1)
    row = version(session, model, 1)
    for name, value in changed.items():
        setattr(row, name, value)
    session.flush()
    assert approve(waiting).state == "failed"
    assert (waiting.gates[0]["kind"], holder(session, model)) == ("version", None)


def test_a_rollback_to_what_is_damaged_since_fails(session, model, asks, *, propose, approve, make_actor):
    propose(1), propose(2)
    asks(ONE)
    rita = make_actor("rita", "promoter")
    back = proposing.rollback(session, rita, model, "production", None, stages=STAGES, now=T0)
    version(session, model, 1).integrity = "damaged"
    assert approve(back).state == "failed"
    assert holder(session, model) == 2


def test_a_stage_that_is_empty_since_is_not_emptied_again(session, model, asks, *, propose, approve, make_actor):
    propose(1)
    asks(ONE)
    rita = make_actor("rita", "promoter")
    first, second = (
        proposing.demote(session, rita, model, "production", stages=STAGES, now=T0) for _ in range(2)
    )  # fmt: skip
    assert (approve(first).state, second.state) == ("applied", "failed")
    assert len(promotions.history(session, model, "production", before=None, limit=10)) == 2


def test_evidence_that_arrives_when_the_time_is_over_applies_nothing(session, model, asks, propose):
    asks(VERIFIED | {"expires_s": 60})
    late = make_version(session, model, integrity="unverified")
    waiting = propose(late.number)
    late.integrity = "verified"
    session.flush()
    deciding.reconsider(session, late.id, stages=STAGES, now=T0 + timedelta(seconds=60))
    assert (waiting.state, holder(session, model)) == ("expired", None)


def test_approvals_lapse_when_the_policy_asks_other_people(session, model, asks, *, propose, approve):
    asks(TWO)
    waiting = propose(1)
    approve(waiting, "pat")
    asks({"approvals": {"required": 1, "users": ["grace"]}})
    reconsider(session, model)
    assert (waiting.state, deciding.counting(session, waiting)) == ("pending", [])
    assert approve(waiting, "grace").state == "applied"


def test_approvals_stay_when_the_policy_asks_fewer_of_the_same_people(session, model, asks, *, propose, approve):
    asks(TWO)
    waiting = propose(1)
    approve(waiting, "pat")
    asks(ONE)
    reconsider(session, model)
    assert (waiting.state, holder(session, model)) == ("applied", 1)


def test_who_approves_again_makes_it_be_judged_again(session, model, asks, *, propose, approve):
    asks(TWO | {"gates": [{"kind": "verified"}]})
    waiting = propose(1)
    approve(waiting, "pat")
    version(session, model, 1).integrity = "damaged"
    session.flush()
    assert approve(waiting, "pat").state == "failed"
    assert len(session.scalars(select(Approval)).all()) == 2


def test_what_waits_for_a_stage_that_is_gone_moves_nothing(session, admin, model, asks, *, propose, approve):
    asks(ONE)
    waiting = propose(1)
    stages.set_for_model(session, admin, model, ["canary"], stages=STAGES, now=T0)
    with pytest.raises(StageNotFoundError):
        approve(waiting)
    deciding.reconsider_stage(session, model, "production", stages=STAGES, now=T0)
    assert (waiting.state, holder(session, model)) == ("pending", None)


def test_a_policy_that_names_a_stage_or_a_gate_that_is_gone_fails_promotions_and_can_be_read(
    session, admin, model, asks, propose
):
    asks({"require_stage": {"stage": "staging"}})
    session.scalars(select(Policy)).one().document = {
        "gates": [{"kind": "gone"}], "require_stage": {"stage": "staging"}
    }  # fmt: skip
    session.flush()
    stages.set_for_model(session, admin, model, ["production"], stages=STAGES, now=T0)
    failed = propose(1)
    assert (failed.state, [gate["kind"] for gate in failed.gates]) == ("failed", ["gone", "require_stage"])
    assert deciding.missing(session, model, [failed]) == {}


def test_what_expires_is_closed_in_one_order_over_all_namespaces(session, model, asks, *, propose, approve):
    asks(ONE | {"expires_s": 60})
    waiting = [propose(number) for number in (3, 1, 2)]
    late = T0 + timedelta(seconds=60)
    assert deciding.expire(session, limit=2, now=late) == 2
    assert deciding.expire(session, limit=2, now=late) == 1
    assert {each.state for each in waiting} == {"expired"}
    assert len(events(session, "promotion:expire")) == 3
    with pytest.raises(PromotionClosedError):
        approve(waiting[0])


def test_taking_away_a_policy_that_is_not_there_changes_nothing(session, admin, model):
    assert policies.set_for_model(session, admin, model, "production", Change(None), stages=STAGES, now=T0) is None
    shared = policies.set_for_namespace(
        session, admin, model.namespace, "production", Change(None), stages=STAGES, now=T0
    )
    assert (shared, events(session, "policy:set")) == (None, [])


def test_nobody_trashes_what_was_applied(session, admin, model, asks, *, propose, approve):
    asks(ONE)
    approve(propose(1))
    with pytest.raises(versions.VersionInUseError):
        versions.trash(session, admin, version(session, model, 1), now=T0)


def test_a_user_who_was_named_with_another_spelling_counts(asks, propose, approve):
    asks({"approvals": {"required": 1, "users": ["GRACE"]}})
    assert approve(propose(1), "grace").state == "applied"
