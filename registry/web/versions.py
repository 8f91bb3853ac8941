"""`/models/NAME/versions/N`: one version with its files, numbers, parents and children."""

from flask import Blueprint, Response, request

from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import actor, transaction
from registry.services import artifacts, health, lineage, metrics, models, versions
from registry.web.browser import signed_in
from registry.web.pages import render

bp = Blueprint("versions", __name__)

SHOWN = 200
"""Files and metrics one page lists; the API pages through all."""

_CHILDREN = 50


@bp.get("/models/<model:model>/versions/<int:number>")
@signed_in(Permission.VERSION_READ)
def show(model: ModelName, number: int) -> Response:
    """A version in whatever state."""
    with transaction(read_only=True) as session:
        row = versions.find(session, actor(), model, number, Permission.VERSION_READ)
        around = versions.surroundings(session, actor(), [row])
        measured = metrics.page_of_metrics(session, row, after=None, limit=SHOWN)
        objective = row.model.objective_metric
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
            limit=SHOWN,
            address=request.host_url.rstrip("/"),
        )
