"""A stage's policy: which gates and approvals a promotion needs, as a JSON document.

    {"gates": [{"kind": "metric", "metric": "mAP50-95", "op": ">=", "value": 0.5}, …],
     "approvals": {"required": 1, "role": "promoter"} or {"required": 2, "users": ["ada", "grace"]} or null,
     "auto": {"metric": "mAP50-95", "direction": "max", "min_delta": 0.001}, {} for the model's objective, or null,
     "freeze": null or "the reason why nothing may move",
     "require_stage": {"stage": "staging", "soak_s": 3600} or null,
     "rollback_skips_approvals": false,
     "expires_s": 604800}

Everything may be left out; the empty document asks for nothing.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from registry.domain.access import Role
from registry.domain.errors import InvalidError
from registry.domain.evidence import Evidence
from registry.domain.gates import DIRECTION, GATES, TEXT, Need, Parameter, evaluate
from registry.domain.names import fold, shown

MAX_GATES: Final = 100
MAX_APPROVALS: Final = 100
DEFAULT_EXPIRY_S: Final = 7 * 24 * 3600
_MAX_SECONDS: Final = 10 * 365 * 24 * 3600


class InvalidPolicyError(InvalidError):
    """A policy is not what its schema says."""

    code = "INVALID_POLICY"
    remedy = "Compare the document with the schema at /api/v1/policy-schema."


_SECONDS: Final = {"type": "integer", "minimum": 0, "maximum": _MAX_SECONDS}
_APPROVALS: Final = {
    "required": Parameter({"type": "integer", "minimum": 1, "maximum": MAX_APPROVALS}),
    "role": Parameter({"enum": [role.value for role in Role if role >= Role.WRITER]}, required=False),
    "users": Parameter({"type": "array", "items": TEXT.schema, "minItems": 1, "maxItems": 100}, required=False),
}
_AUTO: Final = {
    "metric": Parameter(TEXT.schema, required=False),
    "direction": Parameter(DIRECTION.schema, required=False),
    "min_delta": Parameter({"type": "number", "minimum": 0}, required=False),
    "dataset": Parameter(TEXT.schema, required=False),
    "split": Parameter(TEXT.schema, required=False),
}
_REQUIRE: Final = {"stage": TEXT, "soak_s": Parameter(_SECONDS, required=False)}
_KEYS: Final = frozenset({
    "gates", "approvals", "auto", "freeze", "require_stage", "rollback_skips_approvals", "expires_s",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Approvals:
    """How many must agree, and who counts: everyone of at least a role, or some users by name."""

    required: int
    role: Role = Role.PROMOTER
    users: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequireStage:
    """The version must have held another stage, for at least so long."""

    stage: str
    soak_s: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that was read. `document` is what it was read from."""

    document: Mapping[str, Any]
    gates: Sequence[Mapping[str, Any]] = ()
    approvals: Approvals | None = None
    auto: Mapping[str, Any] | None = None
    freeze: str | None = None
    require_stage: RequireStage | None = None
    rollback_skips_approvals: bool = False
    expires_s: int = DEFAULT_EXPIRY_S

    @property
    def needs(self) -> frozenset[Need]:
        """The evidence that its gates look at."""
        kinds = [GATES[kind] for rule in self.gates if (kind := str(rule.get("kind"))) in GATES]
        return frozenset().union(*(kind.needs for kind in kinds))


OPEN: Final = Policy({})
"""The policy of a stage that has none."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate of one promotion: `passed` is None while it waits for evidence."""

    kind: str
    passed: bool | None
    reason: str
    evidence: Mapping[str, Any]


def judge(policy: Policy, evidence: Evidence) -> list[GateResult]:
    """What every gate says, in the order of the policy."""
    return [judge_one(str(rule.get("kind")), rule, evidence) for rule in policy.gates]


def judge_one(kind: str, rule: Mapping[str, Any], evidence: Evidence) -> GateResult:
    """What one gate says, recorded as of a kind."""
    verdict = evaluate(rule, evidence)
    return GateResult(kind, verdict.passed, verdict.reason, verdict.evidence)


def evidence_digest(version_digest: str, results: Sequence[GateResult]) -> str:
    """What an approval is bound to: the content of the version and what its gates said, as sha256 in hex."""
    told = [[each.kind, each.passed, each.reason, each.evidence] for each in results]
    return hashlib.sha256(json.dumps([version_digest, told], sort_keys=True).encode()).hexdigest()


def read_policy(document: Any, /, *, stages: Sequence[str], stage: str) -> Policy:
    """Read and check a policy of `stage`, one of `stages`. Raises InvalidPolicyError saying where it is wrong."""
    if not isinstance(document, dict):
        raise InvalidPolicyError("A policy is a JSON object.")
    unknown = sorted(document.keys() - _KEYS)
    if unknown:
        raise InvalidPolicyError(f"A policy has no {shown(unknown[0])}.", at=unknown[0])
    freeze = document.get("freeze")
    if freeze is not None:
        _check("freeze", freeze, {"type": "string", "minLength": 1, "maxLength": 1000})
    skips = document.get("rollback_skips_approvals", False)
    _check("rollback_skips_approvals", skips, {"type": "boolean"})
    expires = document.get("expires_s", DEFAULT_EXPIRY_S)
    _check("expires_s", expires, _SECONDS | {"minimum": 1})
    auto = document.get("auto")
    if auto is not None:
        _check_object("auto", auto, _AUTO)
        if ("metric" in auto) != ("direction" in auto):
            raise InvalidPolicyError("auto names a metric and its direction, or neither.", at="auto")
    _check_gates(document.get("gates", []))
    _check_approvals(document.get("approvals"))
    _check_require_stage(document.get("require_stage"), stages, stage)
    return stored_policy(document)


def stored_policy(document: Mapping[str, Any], /) -> Policy:
    """What a document says that was checked when it was stored.

    What it names may be gone since: a kind of gate that is not known any more, or a stage, fails what is judged by it.
    """
    approvals, required = document.get("approvals"), document.get("require_stage")
    return Policy(
        document,
        gates=document.get("gates", []),
        approvals=None if approvals is None else _approvals(approvals),
        auto=document.get("auto"),
        freeze=document.get("freeze"),
        require_stage=None if required is None else RequireStage(required["stage"], required.get("soak_s", 0)),
        rollback_skips_approvals=document.get("rollback_skips_approvals", False),
        expires_s=document.get("expires_s", DEFAULT_EXPIRY_S),
    )


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a policy."""
    gates = [_object_schema(gate.parameters, kind=gate.kind, description=gate.meaning) for gate in GATES.values()]
    nullable = {"type": "null"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Policy of a stage",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "gates": {"type": "array", "maxItems": MAX_GATES, "items": {"oneOf": gates}},
            "approvals": {"oneOf": [nullable, _object_schema(_APPROVALS)]},
            "auto": {"oneOf": [nullable, _object_schema(_AUTO)]},
            "freeze": {"oneOf": [nullable, {"type": "string", "minLength": 1, "maxLength": 1000}]},
            "require_stage": {"oneOf": [nullable, _object_schema(_REQUIRE)]},
            "rollback_skips_approvals": {"type": "boolean"},
            "expires_s": _SECONDS | {"minimum": 1},
        },
    }


def _approvals(given: Mapping[str, Any]) -> Approvals:
    return Approvals(given["required"], Role(given.get("role", Role.PROMOTER.value)), tuple(given.get("users", ())))


def _check_gates(given: Any) -> None:
    if not isinstance(given, list) or len(given) > MAX_GATES:
        raise InvalidPolicyError(f"gates is a list of at most {MAX_GATES}.", at="gates")
    for index, rule in enumerate(given):
        at = f"gates[{index}]"
        kind = rule.get("kind") if isinstance(rule, dict) else None
        if not isinstance(kind, str) or kind not in GATES:
            named = f"{shown(str(kind))} is no kind of gate" if kind is not None else "A gate has a kind"
            raise InvalidPolicyError(f"{at}: {named}; there are {', '.join(GATES)}.", at=at)
        _check_object(at, {key: value for key, value in rule.items() if key != "kind"}, GATES[kind].parameters)


def _check_approvals(given: Any) -> None:
    if given is None:
        return
    _check_object("approvals", given, _APPROVALS)
    users = {fold(name) for name in given.get("users", ())}
    if users and "role" in given:
        raise InvalidPolicyError("approvals names a role or users, not both.", at="approvals")
    if users and given["required"] > len(users):
        raise InvalidPolicyError("approvals requires more people than it names.", at="approvals")


def _check_require_stage(given: Any, stages: Sequence[str], stage: str) -> None:
    if given is None:
        return
    _check_object("require_stage", given, _REQUIRE)
    if given["stage"] not in stages or given["stage"] == stage:
        raise InvalidPolicyError(f"require_stage.stage is not another of {', '.join(stages)}.", at="require_stage")


def _check_object(at: str, given: Any, parameters: Mapping[str, Parameter]) -> None:
    if not isinstance(given, dict):
        raise InvalidPolicyError(f"{at} is an object.", at=at)
    for name, parameter in parameters.items():
        if name in given:
            _check(f"{at}.{name}", given[name], parameter.schema)
        elif parameter.required:
            raise InvalidPolicyError(f"{at} lacks {name}.", at=at)
    unknown = sorted(given.keys() - parameters.keys())
    if unknown:
        raise InvalidPolicyError(f"{at} has no {shown(unknown[0])}.", at=at)


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def _check(at: str, given: Any, schema: Mapping[str, Any]) -> None:
    """The few words of JSON Schema that policies use."""
    if "enum" in schema:
        if given not in schema["enum"]:
            raise InvalidPolicyError(f"{at} is one of {', '.join(schema['enum'])}.", at=at)
        return
    kind = schema["type"]
    if not _is_a(given, kind):
        raise InvalidPolicyError(f"{at} is not a value of type {kind}.", at=at)
    if kind in ("number", "integer"):
        _check_number(at, given, schema)
    elif kind == "string":
        if not schema.get("minLength", 0) <= len(given) <= schema["maxLength"] or _CONTROL.search(given):
            raise InvalidPolicyError(f"{at} is text of at most {schema['maxLength']} characters.", at=at)
    elif kind == "array":
        if not schema["minItems"] <= len(given) <= schema["maxItems"]:
            raise InvalidPolicyError(f"{at} has {schema['minItems']} to {schema['maxItems']} items.", at=at)
        for index, item in enumerate(given):
            _check(f"{at}[{index}]", item, schema["items"])


def _is_a(given: Any, kind: str) -> bool:
    return isinstance(given, _TYPES[kind]) and (kind == "boolean" or not isinstance(given, bool))


def _check_number(at: str, given: float, schema: Mapping[str, Any]) -> None:
    if not abs(given) <= 1e300 or given != float(given):  # as whoever reads the event would have it
        raise InvalidPolicyError(f"{at} is not a number that JSON carries exactly.", at=at)
    if given < schema.get("minimum", given) or given > schema.get("maximum", given):
        raise InvalidPolicyError(f"{at} is out of its range.", at=at)
    if "exclusiveMinimum" in schema and given <= schema["exclusiveMinimum"]:
        raise InvalidPolicyError(f"{at} is not above {schema['exclusiveMinimum']}.", at=at)


def _object_schema(
    parameters: Mapping[str, Parameter], *, kind: str | None = None, description: str | None = None
) -> dict[str, Any]:
    properties: dict[str, Any] = {} if kind is None else {"kind": {"const": kind}}
    properties |= {name: dict(parameter.schema) for name, parameter in parameters.items()}
    required = [*([] if kind is None else ["kind"]), *(name for name, each in parameters.items() if each.required)]
    found = {"type": "object", "additionalProperties": False, "properties": properties, "required": required}
    return found if description is None else found | {"description": description}
