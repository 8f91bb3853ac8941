"""Gates: the rules of a stage that a promotion must meet. Each is a pure function of evidence.

A gate passes, fails, or waits for evidence that is still being computed. What it does not know it does not let pass: an
unknown kind, missing evidence and a gate that breaks are failed gates.

A new kind is one function with the decorator `gate`, which names its parameters and the evidence it looks at.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from registry.domain.evidence import Evidence, File, Measured, VersionFacts, advantage, comparable, measured

MAX_NAMED: Final = 20  # names that a reason or its evidence lists


class Need(StrEnum):
    """Evidence that costs a query, collected only if a gate looks at it."""

    METRICS = "metrics"
    TAGS = "tags"
    FILES = "files"
    HEALTH = "health"
    TENSORS = "tensors"
    LINEAGE = "lineage"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says: `passed` is None while it waits for evidence that is still being computed."""

    passed: bool | None
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


def passes(reason: str, evidence: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict that the gate is met."""
    return Verdict(passed=True, reason=reason, evidence=evidence or {})


def fails(reason: str, evidence: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict that the gate is not met, or that nobody can know."""
    return Verdict(passed=False, reason=reason, evidence=evidence or {})


def waits(reason: str) -> Verdict:
    """The verdict that the evidence is still being computed."""
    return Verdict(passed=None, reason=reason)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a gate: its JSON Schema, and whether it may be left out."""

    schema: Mapping[str, Any]
    required: bool = True


Rule = Callable[[Evidence, Mapping[str, Any]], Verdict]


@dataclass(frozen=True, slots=True)
class Gate:
    """A kind of gate."""

    kind: str
    meaning: str
    needs: frozenset[Need]
    parameters: Mapping[str, Parameter]
    rule: Rule


GATES: Final[dict[str, Gate]] = {}
"""Every kind there is, by name."""


def gate(kind: str, *needs: Need, **parameters: Parameter) -> Callable[[Rule], Rule]:
    """Register the decorated rule as a kind of gate."""

    def register(rule: Rule) -> Rule:
        GATES[kind] = Gate(kind, (rule.__doc__ or kind).strip(), frozenset(needs), parameters, rule)
        return rule

    return register


def _optional(parameter: Parameter) -> Parameter:
    return Parameter(parameter.schema, required=False)


TEXT: Final = Parameter({"type": "string", "minLength": 1, "maxLength": 250})
NUMBER: Final = Parameter({"type": "number"})
POSITIVE: Final = Parameter({"type": "number", "exclusiveMinimum": 0})
FLAG: Final = Parameter({"type": "boolean"})
NAMES: Final = Parameter({"type": "array", "items": TEXT.schema, "minItems": 1, "maxItems": 100})
DIRECTION: Final = Parameter({"enum": ["max", "min"]})
_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": lambda value, bound: value >= bound,
    ">": lambda value, bound: value > bound,
    "<=": lambda value, bound: value <= bound,
    "<": lambda value, bound: value < bound,
}
_DATA: Final = {"dataset": _optional(TEXT), "split": _optional(TEXT)}


@gate(
    "metric",
    Need.METRICS,
    metric=TEXT,
    op=Parameter({"enum": list(_OPERATORS)}),
    value=NUMBER,
    slice=_optional(TEXT),
    **_DATA,
)
def _metric(evidence: Evidence, given: Mapping[str, Any]) -> Verdict:
    """A metric of the version against a number, wherever it was measured within the dataset, split and slice named."""
    found = measured(evidence.candidate, given)
    wanted = f"{given['metric']} {given['op']} {given['value']:g}"
    if not found:
        return fails(f"{wanted} is required, and {_described(given)} was not recorded.")
    missed = [each for each in found if not _OPERATORS[given["op"]](each.value, given["value"])]
    shown = missed or found
    reason = f"{given['metric']} is {shown[0].value:g}{_where(shown[0])}; {wanted} is required."
    return Verdict(not missed, reason, {"measured": [_told(each) for each in shown[:MAX_NAMED]]})


@gate(
    "beats_incumbent",
    Need.METRICS,
    metric=TEXT,
    direction=DIRECTION,
    min_delta=_optional(Parameter({"type": "number", "minimum": 0})),
    **_DATA,
)
def _beats_incumbent(evidence: Evidence, given: Mapping[str, Any]) -> Verdict:
    """A metric better than the present holder's, on the same dataset, digest and split; passes if nothing holds."""
    incumbent = evidence.incumbent
    if incumbent is None:
        return passes("Nothing holds the stage, so there is nothing to beat.")
    if incumbent.number == evidence.candidate.number:
        return passes(f"Version {incumbent.number} holds the stage already.")
    pairs = comparable(evidence.candidate, incumbent, given)
    if not pairs:
        return fails(_why_not_comparable(evidence.candidate, incumbent, given))
    deltas = [(advantage(ours.value, theirs.value, given["direction"]), ours, theirs) for ours, theirs in pairs]
    delta, ours, theirs = min(deltas, key=lambda each: each[0])
    required = given.get("min_delta", 0)
    passed = delta > 0 and delta >= required
    reason = (
        f"{given['metric']} is {ours.value:g} and version {incumbent.number} has {theirs.value:g}{_where(ours)}: "
        f"{'better' if delta > 0 else 'not better'} by {abs(delta):g}"
        + (f", {required:g} is required." if required else ".")
    )
    return Verdict(passed, reason, {"candidate": _told(ours), "incumbent": _told(theirs), "delta": _number(delta)})


@gate("no_nan", Need.HEALTH, allow_zero_tensors=_optional(FLAG))
def _no_nan(evidence: Evidence, given: Mapping[str, Any]) -> Verdict:
    """No element is NaN or infinite, and no tensor is all zeros."""
    candidate = evidence.candidate
    if candidate.health == "pending":
        return waits("The elements are still being looked at.")
    found = candidate.elements
    if candidate.health != "done" or found is None:
        return fails("The elements could not be looked at.")
    if not found.tensor_count:
        return fails("No tensor is known of the version, so none was looked at.")
    told = {"nan": found.nan_count, "inf": found.inf_count, "zero_tensors": list(found.zero_tensors[:MAX_NAMED])}
    if found.nan_count or found.inf_count:
        at = f", first in {found.nan_tensors[0]}" if found.nan_tensors else ""
        return fails(f"{found.nan_count} elements are NaN and {found.inf_count} infinite{at}.", told)
    if found.zero_tensors and not given.get("allow_zero_tensors", False):
        return fails(f"{found.zero_tensors[0]} is all zeros.", told)
    return passes("Every element is finite.", told)


@gate("verified")
def _verified(evidence: Evidence, given: Mapping[str, Any]) -> Verdict:
    """A worker has proved that the store gives back the published bytes."""
    del given
    integrity = evidence.candidate.integrity
    if integrity == "unverified":
        return waits("The bytes are still being proved.")
    return Verdict(integrity == "verified", f"The bytes are {integrity}.", {"integrity": integrity})


@gate("safetensors_only", Need.FILES)
def _safetensors_only(evidence: Evidence, given: Mapping[str, Any]) -> Verdict:
    """Weights are in safetensors files, and in no other."""
    del given
    others = [each.path for each in evidence.candidate.files if not _is_beside_safetensors(each)]
    if others:
        return fails(f"{others[0]} is not safetensors.", {"files": others[:MAX_NAMED]})
    found = any(each.format == "safetensors" for each in evidence.candidate.files)
    return Verdict(found, "All weights are safetensors." if found else "There is no safetensors file.")


@gate("no_pickle", Need.FILES)
def _no_pickle(evidence: Evidence, given: Mapping[str, Any]) -> Verdict:
    """No file can run code when it is loaded the usual way."""
    del given
    flagged = [each.path for each in evidence.candidate.files if each.pickle]
    if flagged:
        return fails(f"{flagged[0]} is a pickle.", {"files": flagged[:MAX_NAMED]})
    return passes("No file is a pickle.")


@gate("lineage_known", Need.LINEAGE, allow_scratch=_optional(FLAG))
def _lineage_known(evidence: Evidence, given: Mapping[str, Any]) -> Verdict:
    """Every line of ancestors ends outside, at a named origin; `allow_scratch` also takes versions without parents."""
    rootless = evidence.candidate.rootless
    if rootless and not given.get("allow_scratch", False):
        return fails(f"{rootless[0]} names no parent.", {"versions": list(rootless[:MAX_NAMED])})
    return passes("The lineage is known to its roots.")


@gate("drop_in", Need.TENSORS)
def _drop_in(evidence: Evidence, given: Mapping[str, Any]) -> Verdict:
    """The same tensor names, dtypes, shapes and classes as the present holder, so that it can simply be exchanged."""
    del given
    ours, incumbent = evidence.candidate, evidence.incumbent
    if incumbent is None:
        return passes("Nothing holds the stage, so there is nothing to be exchanged with.")
    if not ours.tensors:
        return fails("The tensors of the version are not known.")
    if list(ours.class_names) != list(incumbent.class_names):
        return fails(f"The class names are not those of version {incumbent.number}.")
    names = sorted(ours.tensors.keys() | incumbent.tensors.keys())
    differing = [name for name in names if ours.tensors.get(name) != incumbent.tensors.get(name)]
    if differing:
        reason = f"{len(differing)} tensors differ in name, dtype or shape from version {incumbent.number}: "
        return fails(f"{reason}{differing[0]} first.", {"tensors": differing[:MAX_NAMED]})
    return passes(f"The same {len(names)} tensors and classes as version {incumbent.number}.")


@gate("licence", Need.TAGS, allowed=NAMES)
def _licence(evidence: Evidence, given: Mapping[str, Any]) -> Verdict:
    """The tag `licence` (or `license`) of the version is one of a list."""
    tags = evidence.candidate.tags
    held = tags.get("licence", tags.get("license"))
    if held is None:
        return fails("The version has no tag 'licence'.")
    allowed = held in given["allowed"]
    return Verdict(allowed, f"The licence is {held}.", {"licence": held})


@gate("fresh", Need.METRICS, days=POSITIVE, metric=_optional(TEXT), **_DATA)
def _fresh(evidence: Evidence, given: Mapping[str, Any]) -> Verdict:
    """A metric (any, if none is named) was recorded within so many days."""
    found = measured(evidence.candidate, given)
    if not found:
        return fails(f"{_described(given)} was not recorded.")
    newest = max(found, key=lambda each: each.at)
    recent = evidence.now - newest.at <= timedelta(days=given["days"])
    # When, not how long ago: evidence that time alone changes would make every approval lapse.
    at = newest.at.isoformat(timespec="seconds")
    reason = f"{newest.name} was recorded at {at}; it may be {given['days']:g} days old."
    return Verdict(recent, reason, {"measured": _told(newest), "at": at})


@gate("tag", Need.TAGS, key=TEXT, value=Parameter({"type": "string", "maxLength": 1000}))
def _tag(evidence: Evidence, given: Mapping[str, Any]) -> Verdict:
    """A tag of the version has a value."""
    held = evidence.candidate.tags.get(given["key"])
    is_set = f"is {held!r}" if held is not None else "is not set"
    return Verdict(held == given["value"], f"The tag {given['key']} {is_set}.", {"value": held})


_SAFE_FORMATS: Final = frozenset({"safetensors", "safetensors-index"})
_FOREIGN: Final = (
    ".bin", ".caffemodel", ".ckpt", ".engine", ".gz", ".h5", ".hdf5", ".keras", ".mlmodel", ".msgpack", ".npy", ".npz",
    ".ot", ".params", ".pb", ".pdparams", ".plan", ".tar", ".tflite", ".trt", ".weights", ".zip",
)  # fmt: skip
"""What holds weights, or may, and is not read by the registry: its name is all that is known of it."""


def _is_beside_safetensors(file: File) -> bool:
    return file.format in _SAFE_FORMATS or (file.format == "opaque" and not file.path.lower().endswith(_FOREIGN))


def evaluate(rule: Mapping[str, Any], evidence: Evidence) -> Verdict:
    """What one gate of a policy says. Never raises: a gate that breaks is a failed gate."""
    kind = GATES.get(str(rule.get("kind")))
    if kind is None:
        return fails("This kind of gate is not known.")
    try:
        verdict = kind.rule(evidence, rule)
        json.dumps(verdict.evidence, allow_nan=False)  # what cannot be kept was not found out
    except Exception as error:  # noqa: BLE001 - whatever breaks, the promotion must not pass
        return fails(f"The gate could not be evaluated: {type(error).__name__}.")
    return verdict


def _described(given: Mapping[str, Any]) -> str:
    metric = given.get("metric", "a metric")
    parts = [f"{key} {given[key]}" for key in ("dataset", "split", "slice") if key in given]
    return f"{metric} on {', '.join(parts)}" if parts else str(metric)


def _why_not_comparable(ours: VersionFacts, theirs: VersionFacts, given: Mapping[str, Any]) -> str:
    mine, other = measured(ours, given), measured(theirs, given)
    what = _described(given)
    if not mine:
        return f"{what} was not recorded for version {ours.number}."
    if not other:
        return f"{what} was not recorded for version {theirs.number}, which holds the stage."
    if all(each.dataset is None for each in mine) and all(each.dataset is None for each in other):
        return f"{what} names no dataset, so nothing says that both versions were measured on the same data."
    return f"{what} was not measured on the same dataset and split for version {theirs.number}, which holds the stage."


def _where(each: Measured) -> str:
    if each.dataset is None:
        return ""
    return f" on {each.dataset}" + (f":{each.split}" if each.split else "")


def _told(each: Measured) -> dict[str, Any]:
    return {
        "metric": each.name,
        "value": _number(each.value),
        "dataset": each.dataset,
        "dataset_digest": each.dataset_digest,
        "split": each.split,
        "slice": each.slice,
    }


def _number(value: float) -> float | str:
    """A number as JSON can say it."""
    return value if math.isfinite(value) else str(value)
