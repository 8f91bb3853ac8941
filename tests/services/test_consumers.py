from datetime import timedelta

import pytest

from registry.domain.names import parse_model
from registry.services import consumers, models, upkeep
from registry.services.actors import ModelNotFoundError
from registry.services.consumers import LEASE, ConsumerNotFoundError, FollowsAnotherModelError, Report
from registry.services.versions import VersionNotFoundError
from tests.support.factories import make_version
from tests.support.world import T0

RUNS_1 = Report(1, 1, "running", "")


@pytest.fixture
def model(session, admin):
    row = models.create(session, admin, parse_model("yolo"), now=T0)
    for _ in range(2):
        make_version(session, row)
    return row


def register(session, actor, model, name="edge-1", *, follows="yolo@production", report=RUNS_1, now=T0):
    return consumers.register(session, actor, model, name, follows=follows, report=report, now=now)


def test_those_that_follow_a_stage_are_counted_by_version(session, admin, model):
    for name, number in (("a", 1), ("b", 2), ("c", 2), ("d", None)):
        register(session, admin, model, name, report=Report(number, None, "pulling", ""))
    register(session, admin, model, "e", follows="default/Yolo@staging")
    register(session, admin, model, "f", follows="yolo")
    assert consumers.running(session, model, ["staging", "production", "other"], now=T0) == {
        "staging": {1: 1}, "production": {2: 2, 1: 1}, "other": {},
    }  # fmt: skip
    assert consumers.reach(session, model, "production", now=T0) == 4


def test_one_that_says_nothing_for_its_lease_is_gone(session, admin, model):
    silent, talks = register(session, admin, model, "silent"), register(session, admin, model, "talks")
    later = T0 + LEASE
    consumers.renew(session, admin, talks.id, report=RUNS_1, now=later - timedelta(seconds=1))
    found = consumers.page_of_consumers(session, model, after=None, limit=9, now=later)
    assert [each.name for each in found] == ["talks"]
    assert consumers.reach(session, model, "production", now=later) == 1
    with pytest.raises(ConsumerNotFoundError):
        consumers.renew(session, admin, silent.id, report=RUNS_1, now=later)
    upkeep.forget_old_rows(session, now=later)
    assert [each.name for each in consumers.page_of_consumers(session, model, after=None, limit=9, now=T0)] == ["talks"]


def test_a_consumer_is_its_user_s_alone(session, admin, model, make_actor):
    ana, bea = make_actor("ana", "reader"), make_actor("bea", "admin")
    consumer = register(session, ana, model)
    for actor in (bea, admin):
        with pytest.raises(ConsumerNotFoundError):
            consumers.renew(session, actor, consumer.id, report=RUNS_1, now=T0)
        with pytest.raises(ConsumerNotFoundError):
            consumers.remove(session, actor, consumer.id, now=T0)
    consumers.remove(session, ana, consumer.id, now=T0)
    assert consumers.page_of_consumers(session, model, after=None, limit=9, now=T0) == []


def test_who_may_not_read_a_model_is_no_consumer_of_it(session, model, make_actor):
    with pytest.raises(ModelNotFoundError):
        register(session, make_actor("carl", "admin", "audio"), model)


def test_what_it_follows_and_runs_must_be_of_the_model(session, admin, model):
    with pytest.raises(FollowsAnotherModelError):
        register(session, admin, model, follows="other@production")
    with pytest.raises(VersionNotFoundError):
        register(session, admin, model, report=Report(3, None, "running", ""))


def test_they_are_paged_by_name(session, admin, model):
    for name in ("c", "a", "b", "b"):
        register(session, admin, model, name)
    first = consumers.page_of_consumers(session, model, after=None, limit=2, now=T0)
    assert [each.name for each in first] == ["a", "b", "b"]
    rest = consumers.page_of_consumers(session, model, after=(first[1].name, first[1].id), limit=2, now=T0)
    assert [each.name for each in rest] == ["b", "c"]
