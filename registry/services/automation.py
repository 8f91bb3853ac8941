"""Automation: the best version is in production. When more is known of a version it is judged, and promoted if it wins.

A version asks by itself for each stage whose policy has `auto`, once for each holder and evidence: applied, pending or
failed, the request is on record. So of two that qualify at the same moment the better one ends up on the stage, and
both decisions show. What has held the stage does not ask again: someone has rolled it back, and people decide.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session, contains_eager

from registry.db.tables import Model, Policy, Promotion, Version
from registry.domain.evidence import ANY_DATASET, measured
from registry.domain.gates import Need
from registry.services import deciding, evidence, judging, models, pointers, policies, promotions, proposing, versions
from registry.services.actors import SYSTEM
from registry.services.models import Objective

_TRIED: Final = 20
"""Of the best versions so many ask when a policy changes, until one meets it."""


def consider(session: Session, version_id: int, *, stages: Sequence[str], now: datetime) -> None:
    """Judge anew what is pending for a version, then let it ask for the stages that promote by themselves."""
    version = _of(session, version_id)
    if version is None:
        return
    model = models.lock(session, version.model)
    deciding.reconsider(session, version_id, stages=stages, now=now)
    for stage in models.stages_of(model, stages):
        _ask(session, model, stage, version, stages=stages, now=now)


def concerned(session: Session, policy_id: int) -> list[int]:
    """The models whose stage a policy is about."""
    policy = session.get_one(Policy, policy_id)
    if policy.model_id is not None:
        return [policy.model_id]
    query = select(Model.id).where(Model.namespace_id == policy.namespace_id, Model.deleted_at.is_(None))
    return list(session.scalars(query.order_by(Model.id)))


def consider_stage(session: Session, model_id: int, stage: str, *, stages: Sequence[str], now: datetime) -> None:
    """Judge anew what is pending on a stage, then let the best version ask for it, and the next if that one fails."""
    query = select(Model).join(Model.namespace).options(contains_eager(Model.namespace)).where(Model.id == model_id)
    found = session.scalar(query)
    if found is None or found.deleted_at is not None or stage not in models.stages_of(found, stages):
        return
    model = models.lock(session, found)
    deciding.reconsider_stage(session, model, stage, stages=stages, now=now)
    rule = judging.automatic_rule(model, policies.read(policies.in_force(session, model, stage)))
    if rule is None:
        return
    dataset = rule.get("dataset", ANY_DATASET).partition("=")[0]
    by = Objective(rule["metric"], rule["direction"], dataset if dataset != ANY_DATASET else None, rule.get("split"))
    for version in versions.ranked(session, model, by, limit=_TRIED):
        asked = _ask(session, model, stage, version, stages=stages, now=now)
        if asked is None or asked.state != "failed":
            return


def objective_changed(session: Session, model: Model) -> None:
    """Another version may be the best: have a worker look at it."""
    objective = models.objective_of(model)
    for best in versions.ranked(session, model, objective, limit=1) if objective is not None else ():
        policies.evidence_changed(session, best)


def _ask(
    session: Session, model: Model, stage: str, version: Version, *, stages: Sequence[str], now: datetime
) -> Promotion | None:
    """Request the stage for the version if its policy promotes by itself and this was not asked before."""
    policy = policies.read(policies.in_force(session, model, stage))
    rule = judging.automatic_rule(model, policy)
    if rule is None or policy.freeze is not None or not _is_candidate(session, version, rule):
        return None
    pointer = pointers.find_stage(session, model, stage) or promotions.empty(model, stage)
    if promotions.has_held(session, model, stage, version.number):
        return None
    last = promotions.last_of(session, model, stage, version.number, kind="auto")
    if last is not None:
        judged = judging.judge(session, model, pointer, version, kind="auto", now=now)
        known = (last.evidence_sha256, last.base_seq) == (judged.evidence_sha256, pointer.seq)
        if last.state == "pending" or known:
            return None
    message = f"better by {rule['metric']}" if pointer.number is not None else f"the first with {rule['metric']}"
    return proposing.promote(
        session, SYSTEM, model, stage, version.number, stages=stages, now=now, kind="auto", message=message
    )


def _is_candidate(session: Session, version: Version, rule: Mapping[str, Any]) -> bool:
    """A sound original release that was measured on the data that count: what was not does not ask."""
    if version.state != "ready" or version.kind != "release" or version.variant is not None:
        return False
    if version.integrity == "damaged":
        return False
    return bool(measured(evidence.collect(session, version, [Need.METRICS]), rule))


def _of(session: Session, version_id: int) -> Version | None:
    query = (
        select(Version)
        .join(Version.model)
        .join(Model.namespace)
        .options(contains_eager(Version.model).contains_eager(Model.namespace))
        .where(Version.id == version_id, Model.deleted_at.is_(None))
    )
    return session.scalar(query)
