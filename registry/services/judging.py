"""Judging: what a stage's policy says of a version at this moment."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import Model, Pointer, Policy, Promotion, Version
from registry.domain import policy as rules
from registry.domain.evidence import Evidence
from registry.domain.gates import Need
from registry.domain.policy import GateResult, RequireStage
from registry.services import evidence, models, policies

REQUIRE_STAGE = "require_stage"
AUTO = "auto"
VERSION = "version"
"""Kinds of results beside a policy's gates: its `require_stage`, its `auto`, and a version that cannot be there."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The policy in force, what its gates said, and the digest that approvals are bound to."""

    policy_id: int | None
    policy_revision: int | None
    policy: rules.Policy
    results: Sequence[GateResult]
    evidence_sha256: str

    @property
    def failed(self) -> bool:
        """Whether a gate is not met."""
        return any(result.passed is False for result in self.results)

    @property
    def waits(self) -> bool:
        """Whether evidence is still being computed."""
        return any(result.passed is None for result in self.results)

    def rows(self) -> list[dict[str, Any]]:
        """The results as they are stored and shown."""
        return [
            {"kind": each.kind, "passed": each.passed, "reason": each.reason, "evidence": dict(each.evidence)}
            for each in self.results
        ]


def judge(
    session: Session,
    model: Model,
    pointer: Pointer,
    version: Version | None,
    *,
    kind: str,
    now: datetime,
) -> Judgement:
    """Evaluate every gate of the stage for a version; None empties it.

    A rollback passes no gates again: the version met them when it was promoted, and to beat the holder that is being
    undone means nothing. Neither does emptying the stage.
    What was asked for a while ago may have become impossible since, whatever the kind: then it fails by VERSION.
    """
    row = policies.in_force(session, model, pointer.name)
    policy = policies.read(row)
    results = [] if (unfit := _unfit(pointer, version)) is None else [unfit]
    if version is not None and kind != "rollback":
        auto = automatic_rule(model, policy) if kind == "auto" else None
        needs = policy.needs | {Need.METRICS} if auto is not None else policy.needs
        known = _evidence(session, model, pointer, version, needs, now=now)
        results += rules.judge(policy, known)
        if auto is not None:
            results.append(rules.judge_one(AUTO, auto, known))
        if policy.require_stage is not None:
            results.append(_has_held(session, model, version, policy.require_stage, now=now))
    digest = version.digest if version is not None else ""
    revision = row.revision if row is not None else None
    return Judgement(_id(row), revision, policy, results, rules.evidence_digest(digest, results))


def automatic_rule(model: Model, policy: rules.Policy) -> dict[str, Any] | None:
    """The gate that a version must meet to be promoted by itself: better than the holder by the model's objective,
    or by what the policy names. None if the policy has no `auto`, or there is no objective.
    """
    if policy.auto is None:
        return None
    named: dict[str, Any] = {
        "metric": model.objective_metric,
        "direction": model.objective_direction,
        "dataset": model.objective_dataset,
        "split": model.objective_split,
    }
    rule = {key: value for key, value in (named | dict(policy.auto)).items() if value is not None}
    return rule | {"kind": "beats_incumbent"} if "metric" in rule else None


def _evidence(
    session: Session, model: Model, pointer: Pointer, version: Version, needs: Collection[Need], *, now: datetime
) -> Evidence:
    candidate = evidence.collect(session, version, needs)
    if pointer.number is None:
        return Evidence(candidate, None, now)
    if pointer.number == version.number:
        return Evidence(candidate, candidate, now)
    holder = session.scalars(
        select(Version).where(Version.model_id == model.id, Version.number == pointer.number)
    ).one()  # fmt: skip
    return Evidence(candidate, evidence.collect(session, holder, needs), now)


def _unfit(pointer: Pointer, version: Version | None) -> GateResult | None:
    if version is None:
        emptied = pointer.number is None
        return GateResult(VERSION, passed=False, reason="Nothing holds the stage.", evidence={}) if emptied else None
    state = version.state if version.state != "ready" else version.integrity
    if state not in ("trashed", "purged", "damaged"):
        return None
    return GateResult(VERSION, passed=False, reason=f"The version is {state}.", evidence={"state": state})


def _has_held(session: Session, model: Model, version: Version, asked: RequireStage, *, now: datetime) -> GateResult:
    """Whether the version has held another stage, for long enough without a break."""
    held = session.execute(
        select(Promotion.number, Promotion.decided_at)
        .where(Promotion.model_id == model.id, Promotion.stage == asked.stage, Promotion.seq.is_not(None))
        .order_by(Promotion.seq)
    ).all()
    name = f"{models.full_name(model)}@{asked.stage}"
    longest: timedelta | None = None
    for index, (number, since) in enumerate(held):
        if number == version.number:
            # A promotion of the holder itself does not end its time.
            end = next((at for other, at in held[index + 1 :] if other != number), None) or now
            longest = max(longest or timedelta(0), end - (since or now))
    if longest is None:
        return GateResult(REQUIRE_STAGE, passed=False, reason=f"It has never held {name}.", evidence={})
    enough = longest >= timedelta(seconds=asked.soak_s)
    # Once it is enough, not for how long: approvals are bound to what is said here, and must not lapse as time passes.
    told = {"held_s": min(int(longest.total_seconds()), asked.soak_s), "required_s": asked.soak_s}
    required = f" for the {asked.soak_s} s that are required" if asked.soak_s else ""
    reason = f"It has {'' if enough else 'not '}held {name}{required}."
    return GateResult(REQUIRE_STAGE, passed=enough, reason=reason, evidence=told)


def _id(row: Policy | None) -> int | None:
    return None if row is None else row.id
