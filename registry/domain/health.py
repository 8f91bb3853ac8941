"""Health: what the numbers inside a version's tensors say about it, and when that is a problem.

A worker measures every tensor once (`weights/health.py`); here the measurements of a version become one summary, and a
summary becomes a list of named problems, for people to see and for gates to decide on.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import hypot, isfinite
from typing import Final

FLOATING: Final = frozenset(
    {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"}
)
"""Dtypes whose tensors count for norms and as all zero. Integers are counters, positions and codes, not weights."""

NAMED: Final = 20
"""Tensors at fault that are kept by name, of each kind of fault."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the elements of one tensor are. All None: the registry does not know how this dtype holds numbers.

    Minimum, maximum and norm (the root of the sum of squares) are those of the finite elements; the first two are None
    if there are none, and of complex numbers, which have no order.
    """

    nan_count: int | None = None
    inf_count: int | None = None
    zero_count: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A tensor and what was found in it."""

    name: str
    dtype: str
    elements: int
    statistics: Statistics

    @property
    def is_zero(self) -> bool:
        """Whether it is a floating tensor of several elements, each of them zero. One zero alone says nothing."""
        return self.dtype in FLOATING and 1 < self.elements == self.statistics.zero_count


@dataclass(frozen=True, slots=True)
class Drift:
    """How far norms moved away from another version's, over the floating tensors that both have in the same size.

    Changes are relative and have no sign: 0.003 is 0.3 % up or down. `norm` is the change of the norm of all these
    tensors together; `worst` the largest change of one of them, `tensor`. None: there is nothing to compare.
    """

    norm: float | None = None
    worst: float | None = None
    tensor: str | None = None


@dataclass(frozen=True, slots=True)
class HealthSummary:
    """The health of a version. `findings` are the names of tensors at fault by kind, the first of each.

    `parameter_count` counts the elements of all tensors, whatever their dtype.
    """

    tensor_count: int = 0
    parameter_count: int = 0
    parameters_by_dtype: Mapping[str, int] = field(default_factory=dict)
    nan_count: int = 0
    inf_count: int = 0
    zero_tensor_count: int = 0
    norm: float | None = None
    drift: Drift = field(default_factory=Drift)
    findings: Mapping[str, list[str]] = field(default_factory=dict)


class Problem(StrEnum):
    """What can be wrong with weights. `unread`: nobody knows whether the numbers are finite."""

    HAS_NAN = "has_nan"
    HAS_INF = "has_inf"
    ZERO_TENSORS = "zero_tensors"
    DRIFT = "drift"
    UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem in one sentence, with the first tensors that have it."""

    problem: Problem
    message: str
    tensors: tuple[str, ...] = ()


def summarise(tensors: Iterable[Measured], parent: Mapping[str, tuple[int, float]] | None = None) -> HealthSummary:
    """One summary of a version's tensors. `parent` has elements and norm by name of the version to compare with."""
    found = list(tensors)
    by_dtype: Counter[str] = Counter()
    findings: dict[str, list[str]] = {}
    nans = infs = zeros = 0
    for each in found:
        by_dtype[each.dtype] += each.elements
        nans += each.statistics.nan_count or 0
        infs += each.statistics.inf_count or 0
        zeros += each.is_zero
        for kind in _faults(each):
            names = findings.setdefault(kind, [])
            if len(names) < NAMED:
                names.append(each.name)
    norms = _norms(found)
    return HealthSummary(
        tensor_count=len(found),
        parameter_count=by_dtype.total(),
        parameters_by_dtype=dict(by_dtype.most_common()),
        nan_count=nans,
        inf_count=infs,
        zero_tensor_count=zeros,
        norm=_finite(hypot(*(norm for _, norm in norms.values()))) if norms else None,
        drift=_drift(norms, parent or {}),
        findings=findings,
    )


def problems(
    summary: HealthSummary, *, max_drift: float | None = None, max_tensor_drift: float | None = None
) -> list[Finding]:
    """Everything that is wrong, worst first. Drift is a problem only beyond a bound that is given."""
    found = []
    for problem, kind, count, what in (
        (Problem.HAS_NAN, "nan", summary.nan_count, "NaN"),
        (Problem.HAS_INF, "inf", summary.inf_count, "infinite values"),
        (Problem.ZERO_TENSORS, "zero", summary.zero_tensor_count, "tensors with nothing but zeros"),
        (
            Problem.UNREAD,
            "unread",
            len(summary.findings.get("unread", ())),
            "or more tensors of a dtype not looked into",
        ),
    ):
        names = tuple(summary.findings.get(kind, ()))
        if count:
            found.append(
                Finding(problem, f"{count:,} {what}, as in {names[0]}." if names else f"{count:,} {what}.", names)
            )
    drift = summary.drift
    if max_drift is not None and drift.norm is not None and drift.norm > max_drift:
        found.append(Finding(Problem.DRIFT, f"The norm moved by {drift.norm:.2%} against the parent."))
    if max_tensor_drift is not None and drift.worst is not None and drift.worst > max_tensor_drift:
        names = (drift.tensor,) if drift.tensor else ()
        found.append(Finding(Problem.DRIFT, f"The norm of {drift.tensor} moved by {drift.worst:.2%}.", names))
    return found


def _faults(tensor: Measured) -> list[str]:
    statistics = tensor.statistics
    if statistics.nan_count is None:
        return ["unread"]
    held = (("nan", statistics.nan_count), ("inf", statistics.inf_count), ("zero", tensor.is_zero))
    return [kind for kind, there in held if there]


def _norms(tensors: Iterable[Measured]) -> dict[str, tuple[int, float]]:
    """Elements and norm of the floating tensors; of two with one name the first."""
    norms: dict[str, tuple[int, float]] = {}
    for each in tensors:
        if each.dtype in FLOATING and each.statistics.norm is not None:
            norms.setdefault(each.name, (each.elements, each.statistics.norm))
    return norms


def _drift(own: Mapping[str, tuple[int, float]], parent: Mapping[str, tuple[int, float]]) -> Drift:
    shared = [name for name, (elements, _) in own.items() if name in parent and parent[name][0] == elements]
    if not shared:
        return Drift()
    changes = {name: change for name in shared if (change := _change(own[name][1], parent[name][1])) is not None}
    whole = _change(hypot(*(own[name][1] for name in shared)), hypot(*(parent[name][1] for name in shared)))
    if not changes:
        return Drift(norm=whole)
    tensor = max(changes, key=lambda name: changes[name])
    return Drift(whole, changes[tensor], tensor)


def _change(now: float, before: float) -> float | None:
    """The relative change. From zero to zero it is none at all; from zero to anything else it has no size."""
    if now == before:
        return 0.0
    return _finite(abs(now - before) / before) if before else None


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
