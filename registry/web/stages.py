"""`/models/NAME/stages/STAGE`: who put what there, when, and why."""

from datetime import UTC, datetime

from flask import Blueprint, Response

from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import actor, config, cursor, next_cursor, page_limit, transaction
from registry.services import models, pointers, promotions
from registry.web.browser import signed_in
from registry.web.pages import render

bp = Blueprint("stages", __name__)


@bp.get("/models/<model:model>/stages/<stage>")
@signed_in(Permission.PROMOTION_READ)
def show(model: ModelName, stage: str) -> Response:
    """The holder and the history, newest first."""
    limit, before = page_limit(), cursor(int)
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.PROMOTION_READ)
        pointers.check_stage(row, stage, config().stages)
        rows = promotions.history(session, row, stage, before=before[0] if before else None, limit=limit)
        following = next_cursor(rows, limit, lambda entry: (entry.seq,))
        return render(
            "stage.html",
            name=models.full_name(row),
            stage=stage,
            holder=pointers.find_stage(session, row, stage),
            rows=rows,
            is_first=before is None,
            following=following,
            now=datetime.now(UTC),
        )
