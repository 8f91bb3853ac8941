"""A policy in words: a short name and a sentence for each thing it asks."""

import difflib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from registry.domain.gates import GATES
from registry.domain.policy import Approvals, Policy
from registry.web import formatting

Sentence = tuple[str, str]

_COMPARED: Final = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}
_ROLES: Final = {"writer": "writers and above", "promoter": "promoters and admins", "admin": "admins"}


def words(policy: Policy) -> list[Sentence]:
    """What it asks, gate by gate, then who has to agree; not that it is frozen."""
    said = [(gate_name(str(rule.get("kind"))), gate_words(rule)) for rule in policy.gates]
    if policy.require_stage is not None:
        soak = policy.require_stage.soak_s
        time = f" for {formatting.duration(soak)} without a break" if soak else ""
        said.append(("stage before", f"The version must have held {policy.require_stage.stage}{time}."))
    if policy.approvals is not None:
        said.append(("approvals", _approvals(policy.approvals, policy)))
    if policy.auto is not None:
        said.append(("automatic", _automatic(policy.auto)))
    return said


def document(policy: Mapping[str, Any] | None) -> str:
    """A policy as JSON that is read line by line; nothing where a model gave up its own."""
    return json.dumps(policy, indent=2, sort_keys=True, ensure_ascii=False) if policy is not None else ""


def changes(documents: Sequence[Mapping[str, Any] | None]) -> list[list[str]]:
    """What each of some revisions, newest first, changed in the one before it: lines that begin with `+` or `-`."""
    pages = [document(each).splitlines() for each in documents]
    return [
        [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
        for after, before in itertools.pairwise(pages)
    ]  # fmt: skip


def gate_name(kind: str) -> str:
    """The name of a kind of gate as it is read."""
    return kind.replace("_", " ")


def gate_words(rule: Mapping[str, Any]) -> str:
    """One gate with its parameters. A kind without a sentence of its own is told by its meaning."""
    kind = str(rule.get("kind"))
    known = GATES.get(kind)
    complete = known is not None and all(name in rule for name, each in known.parameters.items() if each.required)
    if complete and kind in _SENTENCES:
        return _SENTENCES[kind](rule)
    meaning = known.meaning if known is not None else "This kind of gate is not known, so nothing meets it."
    given = ", ".join(f"{gate_name(key)} {_shown(value)}" for key, value in rule.items() if key != "kind")
    return f"{meaning} ({given})" if given else meaning


def _approvals(approvals: Approvals, policy: Policy) -> str:
    who = f"of {', '.join(approvals.users)}" if approvals.users else f"of the {_ROLES[approvals.role.value]}"
    again = ", also to a roll back" if not policy.rollback_skips_approvals else ", but not to a roll back"
    left, ends = "Who uploaded the version and who asks do not count", formatting.duration(policy.expires_s)
    return f"{approvals.required} {who} must agree{again}. {left}. A request ends after {ends}."


def _automatic(auto: Mapping[str, Any]) -> str:
    metric = f"its {auto['metric']}" if "metric" in auto else "its objective metric"
    better = _better(auto) if "direction" in auto else "better"
    delta = f" by at least {auto['min_delta']:g}" if auto.get("min_delta") else ""
    return f"A version that meets all of this is asked for by itself if {metric} is {better} than the holder's{delta}."


def _metric(rule: Mapping[str, Any]) -> str:
    return f"{rule['metric']} must be {_COMPARED[rule['op']]} {rule['value']:g}{_on(rule)}."


def _beats(rule: Mapping[str, Any]) -> str:
    delta = f", by at least {rule['min_delta']:g}" if rule.get("min_delta") else ""
    on = _on(rule) or " on the same dataset and split"
    return f"{rule['metric']} must be {_better(rule)} than the holder's{delta}{on}."


def _no_nan(rule: Mapping[str, Any]) -> str:
    zeros = "" if rule.get("allow_zero_tensors") else ", and no tensor all zeros"
    return f"No element may be NaN or infinite{zeros}."


def _lineage(rule: Mapping[str, Any]) -> str:
    scratch = "; it may have been trained from scratch" if rule.get("allow_scratch") else ""
    return f"Its lineage must be known to the roots{scratch}."


def _fresh(rule: Mapping[str, Any]) -> str:
    days = formatting.count(int(rule["days"]), "day") if rule["days"] == int(rule["days"]) else f"{rule['days']:g} days"
    return f"{rule.get('metric', 'A metric')} must have been recorded within the last {days}{_on(rule)}."


_SENTENCES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "metric": _metric,
    "beats_incumbent": _beats,
    "no_nan": _no_nan,
    "verified": lambda _: "A worker must have proved that the store gives back the published bytes.",
    "safetensors_only": lambda _: "All weights must be safetensors files.",
    "no_pickle": lambda _: "No file may be a pickle, which can run code.",
    "lineage_known": _lineage,
    "drop_in": lambda _: "Tensors (names, shapes, dtypes) and classes must be the same as the holder's.",
    "licence": lambda rule: f"Its licence must be one of {', '.join(rule['allowed'])}.",
    "fresh": _fresh,
    "tag": lambda rule: f"Its tag {rule['key']} must be {rule['value'] or 'empty'}.",
}


def _better(rule: Mapping[str, Any]) -> str:
    return "lower" if rule["direction"] == "min" else "higher"


def _on(rule: Mapping[str, Any]) -> str:
    parts = [f"split {rule['split']}"] if "split" in rule else []
    if "slice" in rule:
        parts.append(f"slice {rule['slice']}")
    if "dataset" in rule:
        name, _, digest = str(rule["dataset"]).partition("=sha256:")
        parts.insert(0, f"{name} ({formatting.short(digest)})" if digest else name)
    return f" on {', '.join(parts)}" if parts else ""


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
