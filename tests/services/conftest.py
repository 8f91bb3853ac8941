"""A model with four versions, a policy for its stages, and people who ask and decide."""

import pytest

from registry.services import deciding, policies, proposing
from registry.services.policies import Change
from tests.support.factories import make_model, make_versions
from tests.support.world import T0

STAGES = ("staging", "production")


@pytest.fixture
def model(session):
    found = make_model(session)
    make_versions(session, found, 4)
    return found


@pytest.fixture
def asks(session, admin, model):
    def set_policy(document, stage="production"):
        return policies.set_for_model(session, admin, model, stage, Change(document), stages=STAGES, now=T0)

    return set_policy


@pytest.fixture
def propose(session, make_actor, model):
    def promote(number, *, by="rita", role="promoter", stage="production", now=T0, **more):
        actor = make_actor(by, role)
        return proposing.promote(session, actor, model, stage, number, stages=STAGES, now=now, **more)

    return promote


@pytest.fixture
def approve(session, make_actor):
    def decide(promotion, by="pat", role="promoter", now=T0, **more):
        actor = make_actor(by, role)
        return deciding.approve(session, actor, promotion.id, stages=STAGES, now=now, **more)[0]

    return decide
