"""`/models/NAME/versions/N`: one version with its files, numbers, parents and children."""

from datetime import UTC, datetime

from flask import Blueprint, Response, request

from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import actor, config, transaction
from registry.services import artifacts, health, lineage, metrics, models, pointers, promotion_lists, versions
from registry.web import ordering
from registry.web.browser import signed_in
from registry.web.pages import render

bp = Blueprint("versions", __name__)

SHOWN = 200
"""Files and metrics one page lists; the API pages through all."""

_CHILDREN = 50
_PROMOTIONS = 20


@bp.get("/models/<model:model>/versions/<int:number>")
@signed_in(Permission.VERSION_READ)
def show(model: ModelName, number: int) -> Response:
    """A version in whatever state."""
    with transaction(read_only=True) as session:
        row = versions.find(session, actor(), model, number, Permission.VERSION_READ)
        around = versions.surroundings(session, actor(), [row])
        measured = metrics.page_of_metrics(session, row, after=None, limit=SHOWN)
        objective = row.model.objective_metric
        may_read_stages = actor().may(Permission.PROMOTION_READ, models.full_name(row.model))
        return render(
            "version.html",
            version=row,
            name=models.full_name(row.model),
            pointers=around.pointers.get(row.id, []),
            parents=around.parents.get(row.id, []),
            children=lineage.walk(session, actor(), row, down=True, depth=1, after=None, limit=_CHILDREN)[:_CHILDREN],
            artifacts=artifacts.page_of_artifacts(session, row, after=None, limit=SHOWN),
            metrics=sorted(measured[:SHOWN], key=lambda metric: metric.name != objective),
            has_more_metrics=len(measured) > SHOWN,
            health=health.report(session, actor(), row),
            tags=versions.tags_of(session, row),
            stages=ordering.stages(models.stages_of(row.model, config().stages)) if may_read_stages else [],
            held={each.name: each for each in pointers.stages_of(session, [row.model_id]).get(row.model_id, [])},
            promotions=promotion_lists.of_version(session, row, limit=_PROMOTIONS) if may_read_stages else [],
            shown_promotions=_PROMOTIONS,
            now=datetime.now(UTC),
            limit=SHOWN,
            address=request.host_url.rstrip("/"),
        )
