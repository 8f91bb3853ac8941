import pytest
from sqlalchemy import insert

from registry.db.tables import Metric
from registry.services import automation, models, pointers, policies, promotions, proposing
from registry.services.models import Objective
from registry.services.policies import Change
from tests.support.factories import make_model, make_version
from tests.support.world import T0

STAGES = ("staging", "production")


@pytest.fixture
def model(session):
    found = make_model(session)
    models.set_objective(found, Objective("mAP", "max", "coco"))
    return found


@pytest.fixture(autouse=True)
def automatic(session, admin, model):
    def set_policy(document):
        policies.set_for_model(session, admin, model, "production", Change(document), stages=STAGES, now=T0)

    set_policy({"auto": {"min_delta": 0.01}})
    return set_policy


@pytest.fixture
def arrive(session, model):
    def publish(value, **columns):
        version = make_version(session, model, **columns)
        measure(session, version, value)
        consider(session, version)
        return version.number

    return publish


def measure(session, version, value):
    row = {"version_id": version.id, "name": "mAP", "value": value, "dataset": "coco", "recorded_by": "ana"}
    session.execute(insert(Metric), [row | {"recorded_at": T0}])


def consider(session, version):
    automation.consider(session, version.id, stages=STAGES, now=T0)


def story(session, model):
    rows = promotions.page_of_promotions(session, model, "production", state=None, before=None, limit=100)
    return sorted((each.number, each.kind, each.state) for each in rows)


def holder(session, model):
    pointer = pointers.find_stage(session, model, "production")
    return pointer.number if pointer is not None else None


def test_the_best_version_goes_to_production_by_itself(session, model, arrive):
    assert [arrive(value) for value in (0.5, 0.6, 0.55)] == [1, 2, 3]
    assert holder(session, model) == 2
    assert story(session, model) == [(1, "auto", "applied"), (2, "auto", "applied"), (3, "auto", "failed")]


def test_a_difference_below_the_least_one_is_not_better(session, model, arrive):
    arrive(0.5), arrive(0.505)
    assert holder(session, model) == 1


def test_of_two_that_qualify_the_better_wins_whichever_is_considered_first(session, model, arrive):
    arrive(0.5)
    low, high = (make_version(session, model) for _ in range(2))
    measure(session, low, 0.6), measure(session, high, 0.7)
    consider(session, high), consider(session, low)
    assert holder(session, model) == high.number
    assert story(session, model)[1:] == [(low.number, "auto", "failed"), (high.number, "auto", "applied")]


def test_a_version_asks_once_for_each_holder_and_evidence(session, model, arrive):
    arrive(0.5)
    worse = make_version(session, model)
    measure(session, worse, 0.4)
    for _ in range(3):
        consider(session, worse)
    assert len(story(session, model)) == 2


def test_approvals_are_waited_for(session, model, automatic, arrive):
    automatic({"auto": {}, "approvals": {"required": 1}})
    arrive(0.5)
    assert story(session, model) == [(1, "auto", "pending")]
    assert holder(session, model) is None


def test_what_was_rolled_back_does_not_come_again_by_itself(session, admin, model, arrive):
    arrive(0.5), arrive(0.6)
    proposing.rollback(session, admin, model, "production", None, stages=STAGES, now=T0)
    version = pointers.ready_version(session, model, 2)
    measure(session, version, 0.9)
    consider(session, version)
    assert holder(session, model) == 1


@pytest.mark.parametrize("columns", [{"kind": "checkpoint"}, {"variant": "onnx-int8"}, {"integrity": "damaged"}])
def test_checkpoints_variants_and_damaged_versions_do_not_ask(session, model, arrive, columns):
    arrive(0.5), arrive(0.9, **columns)
    assert story(session, model) == [(1, "auto", "applied")]


def test_nothing_asks_while_the_stage_is_frozen_and_the_best_does_afterwards(session, model, automatic, arrive):
    automatic({"auto": {}, "freeze": "audit"})
    arrive(0.5), arrive(0.6)
    assert story(session, model) == []
    automatic({"auto": {}})
    automation.consider_stage(session, model.id, "production", stages=STAGES, now=T0)
    assert holder(session, model) == 2


def test_the_policy_may_name_another_metric(session, model, automatic, arrive):
    automatic({"auto": {"metric": "loss", "direction": "min"}})
    arrive(0.5)
    assert story(session, model) == []


def test_every_gate_of_the_stage_counts_too(session, model, automatic, arrive):
    automatic({"auto": {}, "gates": [{"kind": "tag", "key": "checked", "value": "yes"}]})
    arrive(0.5)
    assert story(session, model) == [(1, "auto", "failed")]
