"""Deciding from the command line: gates, approvals, policies, stages, history."""

import json
import re

import pytest

from tests.cli.conftest import write
from tests.support.live import TOKEN

CHECKED = {"gates": [{"kind": "tag", "key": "checked", "value": "yes"}]}


@pytest.fixture
def model(registry, name, alone):
    """A model with three versions."""
    for head in range(3):
        registry("push {name} {file}", name=name, file=write(alone / "m.safetensors", head=head))
    return name


@pytest.fixture
def asks(registry, model, alone):
    def set_policy(document, options=""):
        file = alone / "policy.json"
        file.write_text(json.dumps(document))
        return registry("policy {name} production --set {file} " + options, name=model, file=file)

    return set_policy


@pytest.fixture
def as_user(registry, monkeypatch):
    """Type a command as a promoter of `default`."""

    def type_(name, line, **values):
        if name not in {each["name"] for each in json.loads(registry("user list --json").out)}:
            registry(f"user create {name}")
            registry(f"namespace grant default {name} promoter")
        token = registry(f"token create t --user {name}").out.split()[-1]
        monkeypatch.setenv("REGISTRY_TOKEN", token)
        try:
            return registry(line, **values)
        finally:
            monkeypatch.setenv("REGISTRY_TOKEN", TOKEN)

    return type_


def test_a_gate_that_is_not_met_is_told_and_the_exit_code_is_1(registry, model, asks):
    asks(CHECKED)
    refused = registry("promote {ref} --to production", ref=f"{model}:1", code=1)
    assert refused.out == ""
    gate, error = refused.err.splitlines()
    assert gate == "FAILED  tag: The tag checked is not set."
    assert re.fullmatch(r"error: .+@production does not take version 1; 1 of 1 gates failed.* \[GATES_FAILED\]", error)
    [record] = json.loads(registry("promotions {name} production --json", name=model).out)
    assert (record["state"], record["gates"][0]["passed"]) == ("failed", False)
    assert "FAILED" not in registry("promotions {name} production --state failed", name=model).out
    assert len(registry("promotions {name} production --state applied", name=model).lines) == 1


def test_a_dry_run_says_gate_by_gate_what_would_become_of_it(registry, model, asks):
    asks(CHECKED | {"approvals": {"required": 2}})
    dry = registry("promote {ref} --to production --dry-run", ref=f"{model}:1", code=1)
    assert dry.out == f"{model}@production <- {model}:1 would be failed\n"
    assert dry.err.splitlines() == ["FAILED  tag: The tag checked is not set.", "2 approvals would be needed"]
    registry("tag set {ref} checked=yes", ref=f"{model}:1")
    dry = registry("promote {ref} --to production --dry-run --json", ref=f"{model}:1")
    assert json.loads(dry.out)["outcome"] == "pending"
    assert registry("promotions {name} production --json", name=model).out == "[]\n"
    asks({"freeze": "the fair"})
    dry = registry("promote {ref} --to production --dry-run", ref=f"{model}:1", code=1)
    assert "frozen: the fair" in dry.err
    refused = registry("promote {ref} --to production", ref=f"{model}:1", code=1)
    assert "[STAGE_FROZEN]" in refused.err


def test_a_promotion_waits_until_others_have_agreed(registry, model, asks, as_user):
    asks({"approvals": {"required": 1}})
    asked = as_user("rita", "promote {ref} --to production -m 'better at night'", ref=f"{model}:1")
    assert "1 approvals are missing: 'registry approve " in asked.err
    assert re.fullmatch(rf"{model}@production <- {model}:1 pending \([0-9a-f]{{32}}\)\n", asked.out)
    [waiting] = json.loads(registry("promotions {name} production --state pending --json", name=model).out)
    refused = as_user("rita", "approve {id}", id=waiting["id"], code=1)
    assert "[NOT_AN_APPROVER]" in refused.err
    agreed = as_user("pat", "approve {id} -m 'looks good'", id=waiting["id"])
    assert agreed.out == f"{model}@production = {model}:1 (was empty)\n"
    assert "[PROMOTION_CLOSED]" in registry("reject {id}", id=waiting["id"], code=1).err
    line = registry("history {name} production", name=model).lines[1]
    assert re.search(r"rita +pat +better at night", line)


def test_an_approval_that_finds_a_gate_failed_says_which(registry, model, asks, as_user):
    asks(CHECKED | {"approvals": {"required": 1}})
    registry("tag set {ref} checked=yes", ref=f"{model}:1")
    as_user("rita", "promote {ref} --to production", ref=f"{model}:1")
    [waiting] = json.loads(registry("promotions {name} production --json", name=model).out)
    registry("tag set {ref} checked=no", ref=f"{model}:1")
    refused = as_user("pat", "approve {id}", id=waiting["id"], code=1)
    assert refused.err.splitlines()[0] == "FAILED  tag: The tag checked is 'no'."
    assert "[GATES_FAILED]" in refused.err


def test_a_pending_promotion_is_rejected_or_taken_back(registry, model, asks):
    asks({"approvals": {"required": 1}})
    for verb, state in (("reject", "rejected"), ("cancel", "cancelled")):
        asked = json.loads(registry("promote {ref} --to production --json", ref=f"{model}:1").out)
        done = registry(f"{verb} {asked['id']} -m 'not now'")
        assert done.out == f"{model}@production <- {model}:1 {state} ({asked['id']})\n"


def test_force_needs_a_reason_and_shows(registry, model, asks):
    asks(CHECKED)
    assert "[REASON_REQUIRED]" in registry("promote {ref} --to production --force", ref=f"{model}:1", code=1).err
    registry("promote {ref} --to production --force -m 'it burns'", ref=f"{model}:1")
    assert registry("history {name} production", name=model).lines[1].split()[1] == "force"
    assert '"kind": "force"' in registry("events --json").out


def test_a_policy_is_shown_set_and_taken_away(registry, model, asks, alone):
    shown = registry("policy {name} production", name=model)
    assert (shown.out, shown.err) == ("{}\n", "production asks for nothing\n")
    done = asks(CHECKED, "-m 'look first'")
    assert "revision 1 of the model's policy, by admin" in done.err
    assert json.loads(done.out) == CHECKED
    assert json.loads(registry("policy {name} production --json", name=model).out)["message"] == "look first"
    assert registry("policy {name} production --unset", name=model).out == "{}\n"
    wrong = asks_wrong(registry, model, alone, '{"gates": [{"kind": "moon"}]}', code=1)
    assert "[INVALID_POLICY]" in wrong.err
    assert "there are metric, beats_incumbent" in wrong.err
    for text in ("{", "[]"):
        assert "[USAGE]" in asks_wrong(registry, model, alone, text, code=2).err
    both = registry("policy {name} production --unset --set {file}", name=model, file=alone / "policy.json", code=2)
    assert "exclude each other" in both.err


def asks_wrong(registry, model, alone, text, *, code):
    (alone / "policy.json").write_text(text)
    return registry("policy {name} production --set {file}", name=model, file=alone / "policy.json", code=code)


def test_stages_are_shown_and_named_for_a_model(registry, model):
    registry("promote {ref} --to staging", ref=f"{model}:2")
    lines = registry("stages {name}", name=model).lines
    assert [line.split()[:2] for line in lines] == [["STAGE", "VERSION"], ["staging", "2"], ["production", "none"]]
    named = registry("stages {name} --set canary,staging,live", name=model)
    assert named.out == "canary, staging, live (named by the model)\n"
    assert "[STAGE_IN_USE]" in registry("stages {name} --set live", name=model, code=1).err
    assert registry("stages {name} --unset", name=model).out == "staging, production (named by the server)\n"
    assert json.loads(registry("stages default --namespace --json").out)["scope"] == "server"
    assert registry("stages {name} --until 2026-01-01", name=model, code=2).out == ""


def test_policies_and_stages_of_a_namespace_count_for_its_models(registry, name, alone):
    registry("namespace create {name}", name=name.replace("/", "-"))
    space = name.replace("/", "-")
    file = alone / "policy.json"
    file.write_text('{"freeze": "audit"}')
    registry("stages {space} --namespace --set canary,live", space=space)
    done = registry("policy {space} live --namespace --set {file}", space=space, file=file)
    assert "revision 1 of the namespace's policy" in done.err
    registry("push {name} {file}", name=f"{space}/m", file=write(alone / "m.safetensors"))
    assert "audit" in registry("policy {name} live", name=f"{space}/m").out
    assert [each["stage"] for each in json.loads(registry("stages {name} --json", name=f"{space}/m").out)] == [
        "canary", "live",
    ]  # fmt: skip


def test_the_history_is_asked_for_a_version_and_a_time(registry, model):
    for number in (1, 2, 1):
        registry("promote {ref} --to production", ref=f"{model}:{number}")
    whole = json.loads(registry("history {name} production --json", name=model).out)
    terms = registry("history {name} production --version 1", name=model)
    assert [line.split()[0] for line in terms.lines[1:]] == ["3", "1"]
    assert re.fullmatch(r"1 held production for \d+ s in all, 2 times, and holds it now\n", terms.err)
    assert registry("history {name} production --version 3", name=model).err == "3 has never held production\n"
    since, until = whole[2]["at"], whole[1]["at"]
    line = "history {name} production --since {since} --until {until}"
    assert [row.split()[0] for row in registry(line, name=model, since=since, until=until).lines[1:]] == ["2"]
    line = "stages {name} --since {since} --until {until}"
    changed = registry(line, name=model, since=since, until=until).lines
    assert [row.split() for row in changed] == [
        ["STAGE", "THEN", "AFTERWARDS", "MOVES"], ["staging", "none", "none", "0"], ["production", "1", "2", "1"],
    ]  # fmt: skip
    assert "[USAGE]" in registry("history {name} production --since yesterday", name=model, code=2).err
