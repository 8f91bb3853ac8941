"""`/promotions`: one request to change a stage's holder, its gates, who decided on it, and what became of it."""

from collections.abc import Sequence
from http import HTTPStatus

from flask import Blueprint, Response

from registry import wire
from registry.api import problems
from registry.api.operation import operation
from registry.db.session import now
from registry.db.tables import Approval, Model, Promotion
from registry.domain.access import Permission
from registry.domain.digest import format_digest, parse_digest
from registry.domain.errors import InvalidError
from registry.request import Session, actor, answer, body, config, requires, transaction
from registry.services import deciding, models, policies, promotions

bp = Blueprint("promotions", __name__)


class GatesFailedError(InvalidError):
    """A gate of the stage's policy is not met. The failed promotion is on record; nothing moved."""

    code = "GATES_FAILED"
    remedy = "See each gate's reason; promote again once they are met, or ask an admin to force it."


@bp.get("/promotions/<promotion>")
@requires(Permission.PROMOTION_READ)
@operation("Show a promotion", answers={200: wire.PromotionOut})
def show(promotion: str) -> Response:
    """Not there for whoever may not read its model."""
    with transaction(read_only=True) as session:
        row, model = promotions.find(session, actor(), promotion)
        return answer(promotion_shapes(session, model, [row])[0])


@bp.post("/promotions/<promotion>/approve")
@requires(Permission.PROMOTION_DECIDE)
@operation(
    "Approve a promotion",
    body=wire.DecisionIn,
    answers={200: wire.PromotionOut, 202: wire.PromotionOut},
    refuses=(409, 410),
)
def approve(promotion: str) -> Response:
    """The last approval that is needed applies it, its gates evaluated anew; 202 while it still waits."""
    asked = body(wire.DecisionIn)
    seen = parse_digest(asked.evidence) if asked.evidence is not None else None
    with transaction() as session:
        row, model = deciding.approve(
            session, actor(), promotion, stages=config().stages, now=now(session), comment=asked.comment, seen=seen
        )
        return concluded(session, model, row, HTTPStatus.OK)


@bp.post("/promotions/<promotion>/reject")
@requires(Permission.PROMOTION_DECIDE)
@operation("Reject a promotion", body=wire.DecisionIn, answers={200: wire.PromotionOut}, refuses=(409,))
def reject(promotion: str) -> Response:
    """One rejection ends it."""
    asked = body(wire.DecisionIn)
    with transaction() as session:
        row, model = deciding.reject(session, actor(), promotion, now=now(session), comment=asked.comment)
        return answer(promotion_shapes(session, model, [row])[0])


@bp.post("/promotions/<promotion>/cancel")
@requires(Permission.PROMOTION_REQUEST)
@operation("Cancel a promotion", body=wire.DecisionIn, answers={200: wire.PromotionOut}, refuses=(409,))
def cancel(promotion: str) -> Response:
    """By whoever asked for it, or an admin."""
    asked = body(wire.DecisionIn)
    with transaction() as session:
        row, model = deciding.cancel(session, actor(), promotion, now=now(session), comment=asked.comment)
        return answer(promotion_shapes(session, model, [row])[0])


def concluded(session: Session, model: Model, row: Promotion, status: HTTPStatus) -> Response:
    """What became of a promotion: 202 while it is pending, and the gates as a refusal if they failed."""
    [shape] = promotion_shapes(session, model, [row])
    if row.state == "failed":
        reasons = [gate.reason for gate in shape.gates if gate.passed is False]
        wanted = "does not become empty" if shape.version is None else f"does not take version {shape.version}"
        count = f"{len(reasons)} of {len(shape.gates)} gates failed"
        said = f"{shape.model}@{row.stage} {wanted}; {count}, first: {reasons[0]}"
        gates = [gate.model_dump() for gate in shape.gates]
        return problems.decided(GatesFailedError(said, id=row.id, gates=gates))
    return answer(shape, HTTPStatus.ACCEPTED if row.state == "pending" else status)


def promotion_shapes(session: Session, model: Model, rows: Sequence[Promotion]) -> list[wire.PromotionOut]:
    """Promotions of one model, as their own resources and as answers to the requests that made them."""
    made = deciding.approvals_of(session, [row.id for row in rows])
    revisions = policies.revisions_of(session, rows)
    lacking = deciding.missing(session, model, rows)
    return [
        wire.PromotionOut.model_validate({
            "id": row.id,
            "model": str(models.full_name(model)),
            "stage": row.stage,
            "kind": row.kind,
            "state": row.state,
            "seq": row.seq,
            "version": row.number,
            "previous": row.previous,
            "by": row.requested_by,
            "at": row.decided_at or row.requested_at,
            "message": row.message,
            "requested_at": row.requested_at,
            "expires_at": row.expires_at,
            "policy_revision": revisions.get(row.policy_id or 0),
            "evidence": format_digest(row.evidence_sha256) if row.evidence_sha256 else None,
            "gates": row.gates,
            "approvals": [_approval(each) for each in made.get(row.id, ())],
            "missing_approvals": lacking.get(row.id, 0),
        })
        for row in rows
    ]  # fmt: skip


def _approval(row: Approval) -> dict[str, object]:
    return {
        "by": row.user_name,
        "decision": row.decision,
        "comment": row.comment,
        "at": row.decided_at,
        "lapsed_at": row.lapsed_at,
    }
