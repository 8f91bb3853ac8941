import pytest

from registry.domain.health import Drift, HealthSummary, Measured, Problem, Statistics, problems, summarise


def tensor(name="w", *, dtype="F32", elements=4, nans=0, infs=0, zeros=0, norm=1.0):
    return Measured(name, dtype, elements, Statistics(nans, infs, zeros, -1.0, 1.0, norm))


def test_parameters_are_counted_by_dtype():
    found = summarise([tensor("a"), tensor("b", dtype="BF16", elements=10), tensor("c", elements=2)])
    assert (found.tensor_count, found.parameter_count) == (3, 16)
    assert found.parameters_by_dtype == {"BF16": 10, "F32": 6}


def test_a_version_without_tensors_has_nothing_wrong():
    assert summarise([]) == HealthSummary()
    assert problems(summarise([]), max_drift=0.0, max_tensor_drift=0.0) == []


def test_the_norm_is_that_of_all_floating_tensors_together():
    assert summarise([tensor("a", norm=3.0), tensor("b", norm=4.0), tensor("n", dtype="I64", norm=9.0)]).norm == 5.0


def test_tensors_at_fault_are_named_by_kind_and_counted_on():
    found = summarise([tensor(f"w{index}", nans=2) for index in range(30)] + [tensor("b", infs=1)])
    assert (found.nan_count, found.inf_count) == (60, 1)
    assert found.findings == {"nan": [f"w{index}" for index in range(20)], "inf": ["b"]}


@pytest.mark.parametrize(
    ("measured", "is_zero"),
    [
        (tensor(zeros=4), True),
        (tensor(zeros=3), False),
        (tensor(elements=1, zeros=1), False),
        (tensor(elements=0), False),
        (tensor(dtype="I64", zeros=4), False),
    ],
)
def test_only_a_floating_tensor_of_several_elements_counts_as_all_zero(measured, is_zero):
    found = summarise([measured])
    assert (found.zero_tensor_count, "zero" in found.findings) == (is_zero, is_zero)


def test_drift_is_measured_over_the_tensors_that_both_have():
    own = [tensor("a", norm=3.0), tensor("b", norm=4.4), tensor("grown", elements=8), tensor("new")]
    drift = summarise(own, {"a": (4, 3.0), "b": (4, 4.0), "grown": (4, 7.0), "gone": (4, 1.0)}).drift
    assert (drift.norm, drift.worst) == pytest.approx(((9 + 4.4**2) ** 0.5 / 5 - 1, 0.1))
    assert drift.tensor == "b"


def test_what_shares_nothing_has_no_drift():
    assert summarise([tensor("lora_a")], {"a": (4, 3.0)}).drift == Drift()


def test_a_tensor_that_was_zero_before_has_no_relative_change():
    assert summarise([tensor("a"), tensor("b")], {"a": (4, 0.0), "b": (4, 1.0)}).drift.worst == 0.0


def test_everything_that_is_wrong_becomes_a_named_problem():
    own = [
        tensor("a", nans=1),
        tensor("b", infs=2),
        tensor("z", zeros=4, norm=0.0),
        Measured("q", "Q4_K", 4, Statistics()),
    ]
    found = problems(summarise(own))
    assert [(each.problem, each.tensors) for each in found] == [
        (Problem.HAS_NAN, ("a",)),
        (Problem.HAS_INF, ("b",)),
        (Problem.ZERO_TENSORS, ("z",)),
        (Problem.UNREAD, ("q",)),
    ]


def test_drift_is_a_problem_beyond_a_bound_that_is_given():
    summary = summarise([tensor("a", norm=1.5)], {"a": (4, 1.0)})
    assert problems(summary) == []
    assert problems(summary, max_drift=0.5, max_tensor_drift=0.5) == []
    found = problems(summary, max_drift=0.4, max_tensor_drift=0.4)
    assert [(each.problem, each.tensors) for each in found] == [(Problem.DRIFT, ()), (Problem.DRIFT, ("a",))]
    assert "50.00%" in found[0].message
