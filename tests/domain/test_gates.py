from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from registry.domain import gates
from registry.domain.evidence import Elements, Evidence, File, Measured, VersionFacts, advantage
from registry.domain.gates import GATES, evaluate

NOW = datetime(2026, 11, 24, tzinfo=UTC)
DIGEST, OTHER = "a" * 64, "b" * 64


def measured(value, *, name="mAP", age=1.0, dataset="coco", digest=DIGEST, split="val", part=None):
    return Measured(name, value, NOW - timedelta(days=age), dataset, digest, split, part)


def facts(number=2, *metrics, **more):
    return VersionFacts(number, "verified", "done", metrics=metrics, **more)


def says(rule, candidate, incumbent=None):
    return evaluate(rule, Evidence(candidate, incumbent, NOW))


def metric(op=">=", value=0.5, **more):
    return {"kind": "metric", "metric": "mAP", "op": op, "value": value} | more


BEATS = {"kind": "beats_incumbent", "metric": "mAP", "direction": "max"}


@pytest.mark.parametrize(
    ("op", "value", "passed"),
    [(">=", 0.5, True), (">", 0.5, False), ("<=", 0.5, True), ("<", 0.5, False), (">=", 0.51, False)],
)
def test_a_metric_is_compared_with_a_number(op, value, passed):
    assert says(metric(op, value), facts(2, measured(0.5))).passed is passed


def test_a_metric_that_was_not_recorded_fails():
    verdict = says(metric(), facts(2, measured(0.9, name="loss")))
    assert verdict.passed is False
    assert "mAP was not recorded" in verdict.reason


def test_a_metric_that_is_not_a_number_fails():
    assert says(metric(), facts(2, measured(float("nan")))).passed is False


def test_a_metric_is_asked_on_the_dataset_digest_split_and_slice_that_the_gate_names():
    good, bad = measured(0.9), measured(0.1, split="test")
    assert says(metric(split="val"), facts(2, good, bad)).passed is True
    assert says(metric(split="test"), facts(2, good, bad)).passed is False
    assert says(metric(dataset="lvis"), facts(2, good)).passed is False
    assert says(metric(dataset=f"coco={DIGEST}"), facts(2, good)).passed is True
    assert says(metric(dataset=f"coco={OTHER}"), facts(2, good)).passed is False
    assert says(metric(slice="small"), facts(2, good)).passed is False
    assert says(metric(slice="small"), facts(2, measured(0.9, part="small"))).passed is True


def test_a_gate_without_a_dataset_holds_wherever_the_metric_was_measured():
    assert says(metric(), facts(2, measured(0.9), measured(0.2, dataset="lvis"))).passed is False


def test_a_slice_does_not_stand_for_the_whole():
    assert says(metric(), facts(2, measured(0.9, part="small"))).passed is False


def test_nothing_has_to_be_beaten_on_an_empty_stage():
    verdict = says(BEATS, facts(2))
    assert verdict.passed is True
    assert "Nothing holds the stage" in verdict.reason


@pytest.mark.parametrize(
    ("ours", "theirs", "delta", "direction", "passed"),
    [
        (0.6, 0.5, 0, "max", True),
        (0.5, 0.5, 0, "max", False),
        (0.5, 0.6, 0, "max", False),
        (0.5, 0.6, 0, "min", True),
        (0.6, 0.5, 0.2, "max", False),
        (0.75, 0.5, 0.25, "max", True),
        (float("nan"), 0.5, 0, "max", False),
        (0.5, float("nan"), 0, "max", False),
    ],
)
def test_the_incumbent_is_beaten_in_the_direction_by_the_difference(ours, theirs, delta, direction, passed):
    rule = BEATS | {"direction": direction, "min_delta": delta}
    assert says(rule, facts(2, measured(ours)), facts(1, measured(theirs))).passed is passed


@pytest.mark.parametrize(
    "theirs", [measured(0.1, digest=OTHER), measured(0.1, split="test"), measured(0.1, dataset="lvis")]
)
def test_other_data_is_no_comparison(theirs):
    verdict = says(BEATS, facts(2, measured(0.9)), facts(1, theirs))
    assert verdict.passed is False
    assert "not measured on the same dataset" in verdict.reason


def test_metrics_that_name_no_dataset_compare_only_if_any_is_enough():
    ours, theirs = (facts(n, measured(v, dataset=None, digest=None, split=None)) for n, v in ((2, 0.9), (1, 0.1)))
    refused = says(BEATS, ours, theirs)
    assert refused.passed is False
    assert "names no dataset" in refused.reason
    assert says(BEATS | {"dataset": "any"}, ours, theirs).passed is True


def test_every_dataset_that_both_were_measured_on_has_to_be_better():
    ours = facts(2, measured(0.9), measured(0.3, dataset="lvis"))
    theirs = facts(1, measured(0.5), measured(0.4, dataset="lvis"))
    verdict = says(BEATS, ours, theirs)
    assert verdict.passed is False
    assert verdict.evidence["candidate"]["dataset"] == "lvis"


def test_the_holder_itself_has_nothing_to_beat():
    same = facts(2, measured(0.5))
    assert says(BEATS, same, same).passed is True


@pytest.mark.parametrize(
    ("elements", "passed"),
    [
        (Elements(0, 0, (), tensor_count=3), True),
        (Elements(1, 0, (), ("head.weight",), tensor_count=3), False),
        (Elements(0, 1, (), tensor_count=3), False),
        (Elements(0, 0, ("head.bias",), tensor_count=3), False),
        (Elements(0, 0, ()), False),
    ],
)
def test_nan_inf_and_tensors_of_zeros_fail(elements, passed):
    assert says({"kind": "no_nan"}, facts(2, elements=elements)).passed is passed


def test_tensors_of_zeros_may_be_allowed():
    held = facts(2, elements=Elements(0, 0, ("head.bias",), tensor_count=3))
    assert says({"kind": "no_nan", "allow_zero_tensors": True}, held).passed is True


def test_health_that_is_still_computed_is_waited_for_and_one_that_failed_fails():
    assert says({"kind": "no_nan"}, replace(facts(2), health="pending")).passed is None
    assert says({"kind": "no_nan"}, replace(facts(2), health="failed")).passed is False
    assert says({"kind": "no_nan"}, facts(2)).passed is False


@pytest.mark.parametrize(("integrity", "passed"), [("verified", True), ("unverified", None), ("damaged", False)])
def test_bytes_are_verified(integrity, passed):
    assert says({"kind": "verified"}, replace(facts(2), integrity=integrity)).passed is passed


SAFE, PICKLE, KERAS, README = (
    File("m.safetensors", "safetensors", pickle=False),
    File("m.pt", "pytorch", pickle=True),
    File("m.H5", "opaque", pickle=False),
    File("README.md", "opaque", pickle=False),
)


@pytest.mark.parametrize(
    ("files", "safe", "no_pickle"),
    [
        ((SAFE, README), True, True),
        ((SAFE, PICKLE), False, False),
        ((SAFE, KERAS), False, True),
        ((README,), False, True),
        ((), False, True),
    ],
)
def test_files_are_of_the_allowed_formats(files, safe, no_pickle):
    held = facts(2, files=files)
    assert says({"kind": "safetensors_only"}, held).passed is safe
    assert says({"kind": "no_pickle"}, held).passed is no_pickle


def test_lineage_has_to_be_known_to_its_roots_unless_scratch_is_allowed():
    held = facts(2, rootless=("default/m:1",))
    assert says({"kind": "lineage_known"}, held).passed is False
    assert says({"kind": "lineage_known", "allow_scratch": True}, held).passed is True
    assert says({"kind": "lineage_known"}, facts(2)).passed is True


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"tensors": {"w": ("F32", (2, 3))}}, False),
        ({"tensors": {"w": ("BF16", (2, 2))}}, False),
        ({"tensors": {"v": ("F32", (2, 2))}}, False),
        ({"tensors": {}}, False),
        ({"class_names": ("cat",)}, False),
    ],
)
def test_a_drop_in_has_the_tensors_and_classes_of_the_holder(change, passed):
    holder = facts(1, tensors={"w": ("F32", (2, 2))}, class_names=("cat", "dog"))
    assert says({"kind": "drop_in"}, replace(holder, number=2, **change), holder).passed is passed


def test_nothing_is_exchanged_on_an_empty_stage():
    assert says({"kind": "drop_in"}, facts(2)).passed is True


@pytest.mark.parametrize(
    ("tags", "passed"),
    [({"licence": "MIT"}, True), ({"license": "MIT"}, True), ({"licence": "AGPL-3.0"}, False), ({}, False)],
)
def test_the_licence_is_one_of_a_list(tags, passed):
    assert says({"kind": "licence", "allowed": ["MIT", "Apache-2.0"]}, facts(2, tags=tags)).passed is passed


@pytest.mark.parametrize(("age", "passed"), [(1, True), (7, True), (7.1, False)])
def test_metrics_are_fresh(age, passed):
    assert says({"kind": "fresh", "days": 7}, facts(2, measured(0.5, age=age))).passed is passed


def test_without_metrics_nothing_is_fresh():
    assert says({"kind": "fresh", "days": 7}, facts(2)).passed is False


@pytest.mark.parametrize(("value", "passed"), [("yes", True), ("no", False), (None, False)])
def test_a_tag_has_a_value(value, passed):
    tags = {} if value is None else {"approved": value}
    assert says({"kind": "tag", "key": "approved", "value": "yes"}, facts(2, tags=tags)).passed is passed


def test_when_a_metric_was_recorded_is_evidence_and_how_long_ago_is_not():
    held = facts(2, measured(0.5, age=1))
    said = [
        evaluate({"kind": "fresh", "days": 7}, Evidence(held, None, NOW + timedelta(hours=hours))) for hours in (0, 9)
    ]
    assert said[0] == said[1]


def test_an_unknown_gate_fails():
    assert says({"kind": "signed_by_the_moon"}, facts(2)).passed is False


def test_a_gate_that_breaks_fails(monkeypatch):
    def breaks(_evidence, _given):
        raise ZeroDivisionError

    monkeypatch.setitem(GATES, "tag", replace(GATES["tag"], rule=breaks))
    verdict = says({"kind": "tag", "key": "a", "value": "b"}, facts(2))
    assert verdict.passed is False
    assert "ZeroDivisionError" in verdict.reason


def test_a_new_kind_is_one_function_and_one_registration(monkeypatch):
    monkeypatch.setattr(gates, "GATES", {})

    @gates.gate("even", limit=gates.NUMBER)
    def even(evidence, given):
        """The version's number is even and below a limit."""
        number = evidence.candidate.number
        return gates.passes("even") if number % 2 == 0 and number < given["limit"] else gates.fails("odd or high")

    assert gates.evaluate({"kind": "even", "limit": 3}, Evidence(facts(2), None, NOW)).passed is True
    assert gates.evaluate({"kind": "even", "limit": 2}, Evidence(facts(2), None, NOW)).passed is False


def test_an_advantage_is_signed():
    assert advantage(2, 1, "max") == 1
    assert advantage(2, 1, "min") == -1


@pytest.mark.parametrize("evidence", [{"x": float("nan")}, {"x": float("inf")}, {"x": object()}])
def test_a_gate_whose_evidence_cannot_be_kept_fails(monkeypatch, evidence):
    def odd(_evidence, _given):
        return gates.Verdict(passed=True, reason="Fine.", evidence=evidence)

    monkeypatch.setitem(GATES, "odd", replace(GATES["verified"], rule=odd))
    assert says({"kind": "odd"}, facts(2)).passed is False


def test_a_difference_that_is_not_finite_is_told_as_text():
    worse = says(BEATS, facts(2, measured(float("nan"))), facts(1, measured(0.5)))
    assert (worse.passed, worse.evidence["delta"]) == (False, "-inf")
