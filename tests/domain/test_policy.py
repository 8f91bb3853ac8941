from contextlib import suppress
from datetime import UTC, datetime

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.access import Role
from registry.domain.evidence import Evidence, VersionFacts
from registry.domain.gates import GATES, Need
from registry.domain.policy import (
    GateResult,
    InvalidPolicyError,
    evidence_digest,
    judge,
    read_policy,
    schema,
    stored_policy,
)

STAGES = ("staging", "production")
WHOLE = {
    "gates": [
        {"kind": "metric", "metric": "mAP50-95", "op": ">=", "value": 0.5, "dataset": "coco", "split": "val"},
        {"kind": "beats_incumbent", "metric": "mAP50-95", "direction": "max", "min_delta": 0.01},
        {"kind": "no_nan"},
        {"kind": "safetensors_only"},
        {"kind": "licence", "allowed": ["MIT"]},
        {"kind": "fresh", "days": 30},
        {"kind": "tag", "key": "a", "value": ""},
    ],
    "approvals": {"required": 1, "role": "promoter"},
    "auto": {"metric": "mAP50-95", "direction": "max", "min_delta": 0.01},
    "freeze": None,
    "require_stage": {"stage": "staging", "soak_s": 3600},
    "rollback_skips_approvals": True,
    "expires_s": 60,
}


def read(document):
    return read_policy(document, stages=STAGES, stage="production")


def test_a_whole_policy_is_read_and_fits_its_schema():
    policy = read(WHOLE)
    assert policy.approvals.required == 1
    assert policy.approvals.role is Role.PROMOTER
    assert policy.require_stage.soak_s == 3600
    assert {Need.METRICS, Need.HEALTH, Need.FILES, Need.TAGS} == policy.needs
    assert jsonschema_rs.is_valid(schema(), WHOLE)


def test_the_empty_policy_asks_for_nothing():
    policy = read({})
    assert (policy.gates, policy.approvals, policy.auto, policy.freeze) == ([], None, None, None)


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ([], None),
        ({"gate": []}, "gate"),
        ({"gates": {}}, "gates"),
        ({"gates": [{"kind": "moon"}]}, "gates[0]"),
        ({"gates": [{}]}, "gates[0]"),
        ({"gates": [7]}, "gates[0]"),
        ({"gates": [{"kind": []}]}, "gates[0]"),
        ({"gates": [{"kind": "metric", "metric": "m", "op": "==", "value": 1}]}, "gates[0].op"),
        ({"gates": [{"kind": "metric", "metric": "m", "op": ">="}]}, "gates[0]"),
        ({"gates": [{"kind": "metric", "metric": "m", "op": ">=", "value": True}]}, "gates[0].value"),
        ({"gates": [{"kind": "metric", "metric": "m", "op": ">=", "value": float("nan")}]}, "gates[0].value"),
        ({"gates": [{"kind": "metric", "metric": "m", "op": ">=", "value": 2**53 + 1}]}, "gates[0].value"),
        ({"gates": [{"kind": "metric", "metric": "m", "op": ">=", "value": 10**400}]}, "gates[0].value"),
        ({"gates": [{"kind": "metric", "metric": "", "op": ">=", "value": 1}]}, "gates[0].metric"),
        ({"gates": [{"kind": "no_nan", "really": True}]}, "gates[0]"),
        ({"gates": [{"kind": "fresh", "days": 0}]}, "gates[0].days"),
        ({"gates": [{"kind": "licence", "allowed": []}]}, "gates[0].allowed"),
        ({"gates": [{"kind": "licence", "allowed": [7]}]}, "gates[0].allowed[0]"),
        ({"gates": [{"kind": "no_nan"}] * 101}, "gates"),
        ({"approvals": {"required": 0}}, "approvals.required"),
        ({"approvals": {"required": 1, "role": "reader"}}, "approvals.role"),
        ({"approvals": {"required": 2, "users": ["ada"]}}, "approvals"),
        ({"approvals": {"required": 2, "users": ["ada", "Ada"]}}, "approvals"),
        ({"approvals": {"required": 1, "users": ["ada"], "role": "admin"}}, "approvals"),
        ({"auto": {"metric": "m"}}, "auto"),
        ({"freeze": ""}, "freeze"),
        ({"require_stage": {"stage": "production"}}, "require_stage"),
        ({"require_stage": {"stage": "canary"}}, "require_stage"),
        ({"expires_s": 0}, "expires_s"),
        ({"rollback_skips_approvals": 1}, "rollback_skips_approvals"),
    ],
)
def test_a_policy_that_breaks_a_rule_is_refused_where_it_does(document, where):
    with pytest.raises(InvalidPolicyError) as refused:
        read(document)
    assert refused.value.details.get("at") == where


KEYS = st.sampled_from([*WHOLE, "kind", "metric", "op", "value", "required"]) | st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*WHOLE, "kind", "metric", "op", "value", "required"]) | st.text(max_size=5), inner
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_document_breaks_the_reader_and_what_it_takes_fits_the_schema(document):
    with suppress(InvalidPolicyError):
        read(document)
        assert jsonschema_rs.is_valid(schema(), document)


@pytest.mark.parametrize("kind", GATES)
def test_every_kind_says_what_it_means(kind):
    assert GATES[kind].meaning.endswith(".")


def test_evidence_is_another_when_a_gate_or_the_content_is():
    result = GateResult("tag", passed=True, reason="The tag a is 'b'.", evidence={})
    digests = {
        evidence_digest("a" * 64, [result]),
        evidence_digest("b" * 64, [result]),
        evidence_digest("a" * 64, []),
        evidence_digest("a" * 64, [GateResult("tag", passed=False, reason="The tag a is 'b'.", evidence={})]),
        evidence_digest("a" * 64, [GateResult("tag", passed=True, reason="The tag a is 'b'.", evidence={"n": 1})]),
    }
    assert len(digests) == 5


def test_a_stored_policy_with_a_gate_that_is_not_known_any_more_is_read_and_fails():
    policy = stored_policy({"gates": [{"kind": "gone"}, {"kind": "verified"}], "require_stage": {"stage": "gone"}})
    facts = VersionFacts(1, "verified", "done")
    results = judge(policy, Evidence(facts, None, datetime(2026, 1, 1, tzinfo=UTC)))
    assert [(each.kind, each.passed) for each in results] == [("gone", False), ("verified", True)]
    assert policy.needs == frozenset()
