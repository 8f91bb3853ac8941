"""Deciding: what becomes of a promotion that was asked for, by its gates, by people, and by time.

An approval is bound to the evidence it was given on. If the stage has moved or a gate says something else since, it
lapses: nobody has agreed to that.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, contains_eager

from registry.db.tables import Approval, Model, Pointer, Promotion, Version
from registry.db.tables import Policy as PolicyRow
from registry.domain.access import Permission, Role
from registry.domain.audit import Action
from registry.domain.errors import ConflictError, ForbiddenError
from registry.domain.names import fold
from registry.domain.policy import Policy
from registry.services import judging, models, pointers, policies, promotions
from registry.services.actors import SYSTEM, Actor
from registry.services.judging import Judgement

_OTHERS_AT_ONCE = 100


class PromotionClosedError(ConflictError):
    """The promotion is not pending any more."""

    code = "PROMOTION_CLOSED"
    remedy = "Look at what became of it, and ask for a new promotion if that is not what you want."


class NotAnApproverError(ForbiddenError):
    """The policy does not count this person's approval: the uploader, the requester, or someone it does not name."""

    code = "NOT_AN_APPROVER"
    remedy = "Ask someone whom the stage's policy names, and who neither uploaded the version nor asked for this."


class EvidenceChangedError(ConflictError):
    """The evidence is not what the approver has seen."""

    code = "EVIDENCE_CHANGED"
    remedy = "Look at the promotion again, and approve what its gates say now."


def conclude(
    session: Session,
    actor: Actor,
    model: Model,
    pointer: Pointer,
    promotion: Promotion,
    *,
    judged: Judgement,
    now: datetime,
    is_new: bool = False,
) -> None:
    """Apply the promotion, fail it, or leave it pending, as the judgement and its approvals say."""
    if promotion.kind != "force":
        if judged.failed:
            promotion.state, promotion.decided_at = "failed", now
            promotions.record(session, actor, model, Action.PROMOTION_FAIL, promotion, now=now, gates=judged.rows())
            return
        # What was asked for before a freeze waits until it is over.
        if judged.waits or judged.policy.freeze is not None or lacking(session, promotion, judged.policy) > 0:
            if is_new:
                promotions.record(session, actor, model, Action.PROMOTION_REQUEST, promotion, now=now)
            return
    promotions.move(session, actor, model, pointer, promotion, now=now)
    _judge_others(session, model, pointer, promotion, now=now)


def missing(session: Session, model: Model, promotions_: Sequence[Promotion]) -> dict[str, int]:
    """How many approvals those of some promotions still need that are pending, by id and the policies in force."""
    pending = [each for each in promotions_ if each.state == "pending"]
    in_force = {
        stage: policies.read(policies.in_force(session, model, stage)) for stage in {each.stage for each in pending}
    }
    made = approvals_of(session, [each.id for each in pending])
    return {
        each.id: max(0, required(each, in_force[each.stage]) - agreed(made.get(each.id, ()))) for each in pending
    }  # fmt: skip


def lacking(session: Session, promotion: Promotion, policy: Policy) -> int:
    """How many approvals are missing by a policy."""
    asked = required(promotion, policy)
    return max(0, asked - agreed(counting(session, promotion))) if asked else 0


def required(promotion: Promotion, policy: Policy) -> int:
    """How many approvals a promotion needs by a policy."""
    if policy.approvals is None or (promotion.kind == "rollback" and policy.rollback_skips_approvals):
        return 0
    return policy.approvals.required


def agreed(decisions: Sequence[Approval]) -> int:
    """How many of some decisions are approvals that count."""
    return sum(each.decision == "approve" and each.lapsed_at is None for each in decisions)


def counting(session: Session, promotion: Promotion) -> list[Approval]:
    """The decisions that have not lapsed, the first one first."""
    query = select(Approval).where(Approval.promotion_id == promotion.id, Approval.lapsed_at.is_(None))
    return list(session.scalars(query.order_by(Approval.id)))


def approvals_of(session: Session, promotion_ids: Sequence[str]) -> dict[str, list[Approval]]:
    """Every decision there ever was on some promotions, by id, the first one first."""
    found: dict[str, list[Approval]] = {}
    query = select(Approval).where(Approval.promotion_id.in_(promotion_ids)).order_by(Approval.id)
    for approval in session.scalars(query) if promotion_ids else ():
        found.setdefault(approval.promotion_id, []).append(approval)
    return found


def approvers(session: Session, promotion_ids: Sequence[str]) -> dict[str, list[str]]:
    """Who agreed to some promotions, by id; only decisions that counted."""
    made = approvals_of(session, promotion_ids)
    return {
        promotion_id: [each.user_name for each in all_ if each.decision == "approve" and each.lapsed_at is None]
        for promotion_id, all_ in made.items()
    }


def approve(
    session: Session,
    actor: Actor,
    promotion_id: str,
    *,
    stages: Sequence[str],
    now: datetime,
    comment: str = "",
    seen: str | None = None,
) -> tuple[Promotion, Model]:
    """Agree to a pending promotion; the last approval that it needs applies it. Repeating it changes nothing.

    `seen` is the digest of the evidence the approver has looked at, if they say so. The gates are evaluated anew.
    While the stage is frozen an approval is taken, and nothing moves. Raises PromotionNotFoundError,
    PromotionClosedError, StageNotFoundError, NotAnApproverError, EvidenceChangedError or PermissionDeniedError.
    """
    model, pointer, promotion = _pending(session, actor, promotion_id, Permission.PROMOTION_DECIDE, now=now)
    pointers.check_stage(model, promotion.stage, stages)
    judged = _judged_anew(session, model, pointer, promotion, now=now)
    if seen is not None and seen != judged.evidence_sha256:
        raise EvidenceChangedError("The evidence has changed since you saw it.", evidence=judged.evidence_sha256)
    _check_approver(session, actor, model, promotion, judged)
    if all(each.user_id != actor.user_id for each in counting(session, promotion)):
        session.add(_decision(actor, promotion, "approve", comment, now=now))
        session.flush()  # the conclusion counts it
        promotions.record(session, actor, model, Action.PROMOTION_APPROVE, promotion, now=now, comment=comment)
    conclude(session, actor, model, pointer, promotion, judged=judged, now=now)
    return promotion, model


def reject(
    session: Session, actor: Actor, promotion_id: str, *, now: datetime, comment: str = ""
) -> tuple[Promotion, Model]:
    """Refuse a pending promotion, which ends it.

    Raises PromotionNotFoundError, PromotionClosedError or PermissionDeniedError.
    """
    model, _, promotion = _pending(session, actor, promotion_id, Permission.PROMOTION_DECIDE, now=now)
    for earlier in counting(session, promotion):
        if earlier.user_id == actor.user_id:
            earlier.lapsed_at = now
    session.flush()  # one decision of a person counts
    session.add(_decision(actor, promotion, "reject", comment, now=now))
    promotion.state, promotion.decided_at = "rejected", now
    promotions.record(session, actor, model, Action.PROMOTION_REJECT, promotion, now=now, comment=comment)
    return promotion, model


def cancel(
    session: Session, actor: Actor, promotion_id: str, *, now: datetime, comment: str = ""
) -> tuple[Promotion, Model]:
    """Take a pending promotion back: the one who asked for it, or an admin.

    Raises PromotionNotFoundError, PromotionClosedError or PermissionDeniedError.
    """
    model, _, promotion = _pending(session, actor, promotion_id, Permission.PROMOTION_REQUEST, now=now)
    if promotion.requested_by != actor.name:
        actor.check(Permission.PROMOTION_FORCE, models.full_name(model))
    promotion.state, promotion.decided_at = "cancelled", now
    promotions.record(session, actor, model, Action.PROMOTION_CANCEL, promotion, now=now, comment=comment)
    return promotion, model


def expire(session: Session, *, limit: int, now: datetime) -> int:
    """Close up to `limit` pending promotions whose time is over, and say how many that were."""
    query = select(Promotion).where(Promotion.state == "pending", Promotion.expires_at <= now)
    due = session.scalars(query.order_by(Promotion.expires_at).limit(limit)).all()
    # Every model before the first event, whose chain another may hold who waits for one of them; and all in one order.
    owners = (
        select(Model)
        .join(Model.namespace)
        .options(contains_eager(Model.namespace))
        .where(Model.id.in_({each.model_id for each in due}))
        .order_by(Model.namespace_id, Model.id)
        .with_for_update(of=Model)
    )
    for model in session.scalars(owners).all():
        for promotion in due:
            if promotion.model_id == model.id:
                session.refresh(promotion)
                _close_if_over(session, model, promotion, now=now)
    return len(due)


def _close_if_over(session: Session, model: Model, promotion: Promotion, *, now: datetime) -> bool:
    if promotion.state == "pending" and promotion.expires_at is not None and promotion.expires_at <= now:
        promotion.state, promotion.decided_at = "expired", now
        promotions.record(session, SYSTEM, model, Action.PROMOTION_EXPIRE, promotion, now=now)
    return promotion.state != "pending"


def reconsider(session: Session, version_id: int, *, stages: Sequence[str], now: datetime) -> int:
    """Judge anew the pending promotions of a version of which more is known now; gives how many there were."""
    waiting = session.scalars(
        select(Promotion.id)
        .join(Version, (Version.model_id == Promotion.model_id) & (Version.number == Promotion.number))
        .where(Version.id == version_id, Promotion.state == "pending")
        .order_by(Promotion.requested_at, Promotion.id)
    ).all()
    for promotion_id in waiting:
        model, pointer, promotion = _locked(session, SYSTEM, promotion_id)
        _settle(session, model, pointer, promotion, stages=stages, now=now)
    return len(waiting)


def reconsider_stage(session: Session, model: Model, stage: str, *, stages: Sequence[str], now: datetime) -> None:
    """Judge anew whatever is pending on a stage of a model that is locked: its policy asks for something else now."""
    query = (
        select(Promotion.id)
        .where(Promotion.model_id == model.id, Promotion.stage == stage, Promotion.state == "pending")
        .order_by(Promotion.requested_at, Promotion.id)
    )
    for promotion_id in session.scalars(query).all():
        _, pointer, promotion = _locked(session, SYSTEM, promotion_id)
        _settle(session, model, pointer, promotion, stages=stages, now=now)


def _judge_others(session: Session, model: Model, pointer: Pointer, applied: Promotion, *, now: datetime) -> None:
    """The stage has moved: what was pending on it is judged against the new holder, and has to be approved anew."""
    query = (
        select(Promotion)
        .where(Promotion.model_id == model.id, Promotion.stage == pointer.name, Promotion.state == "pending")
        .where(Promotion.id != applied.id)
        .order_by(Promotion.requested_at, Promotion.id)
        .limit(_OTHERS_AT_ONCE)
    )
    for promotion in session.scalars(query).all():
        if _close_if_over(session, model, promotion, now=now):
            continue
        judged = _judged_anew(session, model, pointer, promotion, now=now)
        if judged.failed:
            promotion.state, promotion.decided_at = "failed", now
            promotions.record(session, SYSTEM, model, Action.PROMOTION_FAIL, promotion, now=now, gates=judged.rows())


def _settle(
    session: Session, model: Model, pointer: Pointer, promotion: Promotion, *, stages: Sequence[str], now: datetime
) -> None:
    if _close_if_over(session, model, promotion, now=now) or promotion.stage not in models.stages_of(model, stages):
        return
    judged = _judged_anew(session, model, pointer, promotion, now=now)
    conclude(session, SYSTEM, model, pointer, promotion, judged=judged, now=now)


def _judged_anew(session: Session, model: Model, pointer: Pointer, promotion: Promotion, *, now: datetime) -> Judgement:
    """Evaluate the gates again. Approvals lapse that were given on other evidence, before the stage moved, or while
    the policy asked other people.
    """
    version = None
    if promotion.number is not None:
        version = session.scalars(
            select(Version).where(Version.model_id == model.id, Version.number == promotion.number)
        ).one()
    judged = judging.judge(session, model, pointer, version, kind=promotion.kind, now=now)
    before = policies.read(session.get(PolicyRow, promotion.policy_id) if promotion.policy_id is not None else None)
    seen = (promotion.base_seq, promotion.evidence_sha256, _asked(before))
    is_another = seen != (pointer.seq, judged.evidence_sha256, _asked(judged.policy))
    lapsing = counting(session, promotion) if is_another else []
    for approval in lapsing:
        approval.lapsed_at = now
    promotion.base_seq, promotion.previous = pointer.seq, pointer.number
    promotion.policy_id, promotion.gates = judged.policy_id, judged.rows()
    promotion.evidence_sha256 = judged.evidence_sha256
    session.flush()
    if lapsing:
        promotions.record(session, SYSTEM, model, Action.PROMOTION_LAPSE, promotion, now=now, count=len(lapsing))
    return judged


def _asked(policy: Policy) -> tuple[Role, tuple[str, ...]] | None:
    """Whose approvals count."""
    return None if policy.approvals is None else (policy.approvals.role, policy.approvals.users)


def _check_approver(session: Session, actor: Actor, model: Model, promotion: Promotion, judged: Judgement) -> None:
    uploader = session.scalar(
        select(Version.created_by).where(Version.model_id == model.id, Version.number == promotion.number)
    )
    reason = why_not_counted(actor, model, promotion, uploader=uploader, policy=judged.policy)
    if reason is not None:
        raise NotAnApproverError(reason)


def why_not_counted(
    actor: Actor, model: Model, promotion: Promotion, *, uploader: str | None, policy: Policy
) -> str | None:
    """Why the policy does not count this person's approval, in a sentence; None if it does."""
    if actor.name in (uploader, promotion.requested_by):
        role = "uploaded the version" if actor.name == uploader else "asked for the promotion"
        return f"{actor.name} {role}, so their approval does not count."
    asked = policy.approvals
    if asked is None:
        return None
    if asked.users:
        counts = fold(actor.name) in {fold(name) for name in asked.users}
    else:
        role_held = actor.role_in(models.full_name(model).namespace)
        counts = role_held is not None and role_held >= Role(asked.role)
    return None if counts else f"The policy does not ask for the approval of {actor.name}."


def _decision(actor: Actor, promotion: Promotion, decision: str, comment: str, *, now: datetime) -> Approval:
    return Approval(
        promotion_id=promotion.id,
        user_id=actor.user_id,
        user_name=actor.name,
        decision=decision,
        comment=comment,
        evidence_sha256=promotion.evidence_sha256,
        decided_at=now,
    )


def _pending(
    session: Session, actor: Actor, promotion_id: str, permission: Permission, *, now: datetime
) -> tuple[Model, Pointer, Promotion]:
    found, owner = promotions.find(session, actor, promotion_id)
    actor.check(permission, models.full_name(owner))
    model, pointer, promotion = _locked(session, actor, found.id)
    if promotion.state != "pending" or (promotion.expires_at is not None and promotion.expires_at <= now):
        state = promotion.state if promotion.state != "pending" else "expired"
        raise PromotionClosedError(f"The promotion is {state}.", id=promotion.id, state=state)
    return model, pointer, promotion


def _locked(session: Session, actor: Actor, promotion_id: str) -> tuple[Model, Pointer, Promotion]:
    """The promotion as it is and stays until the transaction ends; its model is locked first, as everywhere."""
    promotion, owner = promotions.find(session, actor, promotion_id)
    model = models.lock(session, owner)
    session.refresh(promotion)
    pointer = pointers.find_stage(session, model, promotion.stage) or promotions.empty(model, promotion.stage)
    return model, pointer, promotion
