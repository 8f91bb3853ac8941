from datetime import timedelta

import pytest
from sqlalchemy import column, func, insert, select, table

from registry.db import queue
from registry.db.tables import Metric, VersionTag
from registry.services import automation, models, pointers, policies, promotions, proposing
from registry.services.models import Objective
from registry.services.policies import Change
from tests.support.factories import make_model, make_version
from tests.support.world import T0

STAGES = ("staging", "production")
CHECKED = {"kind": "tag", "key": "checked", "value": "yes"}


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


def test_what_was_not_measured_on_the_data_that_count_does_not_ask(session, model, arrive):
    row = {"name": "mAP", "value": 0.9, "dataset": "cats", "recorded_by": "ana", "recorded_at": T0}
    version = make_version(session, model)
    session.execute(insert(Metric), [row | {"version_id": version.id}])
    consider(session, version)
    assert story(session, model) == []


def test_a_changed_policy_promotes_the_best_of_those_that_meet_it(session, model, automatic):
    for value, checked in ((0.5, "yes"), (0.6, "yes"), (0.7, "no")):
        version = make_version(session, model)
        measure(session, version, value)
        session.add(VersionTag(version_id=version.id, key="checked", value=checked))
    automatic({"auto": {"metric": "mAP", "direction": "max"}, "gates": [CHECKED]})
    automation.consider_stage(session, model.id, "production", stages=STAGES, now=T0)
    assert story(session, model) == [(2, "auto", "applied"), (3, "auto", "failed")]


def test_a_policy_with_a_metric_of_its_own_needs_no_objective(session, model, automatic):
    model.objective_metric = model.objective_direction = None
    measure(session, make_version(session, model), 0.5)
    automatic({"auto": {"metric": "mAP", "direction": "max", "dataset": "any"}})
    automation.consider_stage(session, model.id, "production", stages=STAGES, now=T0)
    assert holder(session, model) == 1


def test_a_version_asks_once_it_has_held_the_stage_before_for_long_enough(session, admin, model, automatic):
    automatic({"auto": {}, "require_stage": {"stage": "staging", "soak_s": 60}})
    version = make_version(session, model)
    measure(session, version, 0.5)
    promoted = proposing.promote(session, admin, model, "staging", 1, stages=STAGES, now=T0)
    assert list(queue.runs(session, policies.CONSIDER, keys=[f"{promoted.id}:production"])) == [
        f"{promoted.id}:production"
    ]
    automation.consider(session, version.id, stages=STAGES, now=T0 + timedelta(seconds=63))
    assert holder(session, model) == 1


def test_another_objective_has_the_best_by_it_considered(session, model):
    version = make_version(session, model)
    measure(session, version, 0.5)
    before = considered(session)
    automation.objective_changed(session, model)
    assert considered(session) == before + 1


def considered(session):
    rows = table("workflow_status", column("name"), schema=None if is_sqlite(session) else queue.SCHEMA)
    return session.scalar(select(func.count()).select_from(rows).where(rows.c.name == policies.CONSIDER))


def is_sqlite(session):
    return session.get_bind().dialect.name == "sqlite"
