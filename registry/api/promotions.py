"""`/promotions`: one request to change a stage's holder, and what became of it."""

from flask import Blueprint, Response

from registry import wire
from registry.api.operation import operation
from registry.db.tables import Promotion
from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import actor, answer, requires, transaction
from registry.services import promotions

bp = Blueprint("promotions", __name__)


@bp.get("/promotions/<promotion>")
@requires(Permission.PROMOTION_READ)
@operation("Show a promotion", answers={200: wire.PromotionOut})
def show(promotion: str) -> Response:
    """Not there for whoever may not read its model."""
    with transaction(read_only=True) as session:
        return answer(promotion_shape(*promotions.find(session, actor(), promotion)))


def promotion_shape(row: Promotion, model: ModelName) -> wire.PromotionOut:
    """A promotion as its own resource and as the answer to the request that made it."""
    return wire.PromotionOut(
        id=row.id,
        model=str(model),
        stage=row.stage,
        kind=row.kind,
        state=row.state,
        seq=row.seq,
        version=row.number,
        previous=row.previous,
        by=row.requested_by,
        at=row.decided_at or row.requested_at,
        message=row.message,
    )
