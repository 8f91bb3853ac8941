"""The library's part in deciding: what comes back, what is raised, and what it carries."""

from datetime import timedelta

import pytest

import registry
from registry.domain.errors import ConflictError, InvalidError

CHECKED = {"gates": [{"kind": "tag", "key": "checked", "value": "yes"}]}


@pytest.fixture
def model(client, name, weights):
    for seed in range(3):
        client.push(name, weights(seed=seed))
    return name


@pytest.fixture
def promoter(live, client):
    """A client of somebody else who may promote in `default`."""
    if "pat" not in {user.name for user in client.users()}:
        client.create_user("pat")
        client.grant("default", "pat", role="promoter")
    token = client.create_token("t", user="pat").token
    with live.client(token) as found:
        yield found


def test_gates_that_are_not_met_raise_with_what_each_said(client, model):
    client.set_policy(model, "production", CHECKED, message="look first")
    with pytest.raises(InvalidError) as refused:
        client.promote(f"{model}:1", to="production")
    assert refused.value.code == "GATES_FAILED"
    assert refused.value.details["gates"][0]["reason"] == "The tag checked is not set."
    failed = client.promotion(refused.value.details["id"])
    assert (failed.state, failed.seq, failed.policy_revision) == ("failed", None, 1)
    assert [each.id for each in client.promotions(model, "production", state="failed")] == [failed.id]


def test_a_preview_foretells_and_changes_nothing(client, model):
    client.set_policy(model, "production", CHECKED)
    preview = client.preview(f"{model}:1", to="production")
    assert (preview.outcome, preview.gates[0].passed) == ("failed", False)
    client.set_tag(f"{model}:1", "checked", "yes")
    assert client.preview(f"{model}:1", to="production").outcome == "applied"
    assert list(client.promotions(model, "production")) == []


def test_another_agrees_to_what_was_seen(client, promoter, model):
    client.set_policy(model, "production", {"approvals": {"required": 1}})
    asked = promoter.promote(f"{model}:1", to="production")
    assert (asked.state, asked.missing_approvals) == ("pending", 1)
    with pytest.raises(registry.RegistryError) as refused:
        promoter.approve(asked.id)
    assert refused.value.code == "NOT_AN_APPROVER"
    rejected = client.reject(asked.id, message="blurred")
    assert (rejected.state, rejected.approvals[0].comment) == ("rejected", "blurred")
    again = promoter.promote(f"{model}:1", to="production")
    assert promoter.cancel(again.id).state == "cancelled"
    with pytest.raises(ConflictError) as closed:
        client.reject(again.id)
    assert closed.value.code == "PROMOTION_CLOSED"


def test_policies_and_stages_are_read_and_set(client, model):
    assert (client.policy(model, "production").scope, client.policy(model, "production").policy) == (None, {})
    assert client.set_policy(model, "production", CHECKED).revision == 1
    assert client.set_policy(model, "production", None).policy == {}
    assert client.namespace_policy("default", "production").scope is None
    assert client.name_stages(model, ["canary", "live"]).scope == "model"
    assert [each.stage for each in client.stages(model)] == ["canary", "live"]
    assert client.name_stages(model, None).stages == client.namespace_stages("default").stages


def test_who_held_a_stage_is_asked_by_version_and_by_time(client, model):
    first, second, third = (client.promote(f"{model}:{number}", to="production") for number in (1, 2, 1))
    terms = list(client.history(model, "production", version=1))
    assert [(each.seq, each.until) for each in terms] == [(3, None), (1, second.at)]
    assert [each.seq for each in client.history(model, "production", since=first.at, until=second.at)] == [2]
    assert client.stage(model, "production", when=second.at).version == 2
    [_, production] = client.changes(model, since=second.at, until=third.at)
    assert (production.before.version, production.after.version, production.moves) == (2, 1, 1)
    [_, before] = client.changes(model, since=first.at - timedelta(days=1), until=first.at)
    assert (before.before.version, before.after.version) == (None, 1)
