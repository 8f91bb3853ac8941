"""`…/versions/{number}/health`: what a worker found in the tensors of a version."""

from flask import Blueprint, Response

from registry import wire
from registry.api import shapes
from registry.api.operation import operation
from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import actor, answer, requires, transaction
from registry.services import health, versions

bp = Blueprint("health", __name__)


@bp.get("/models/<model:model>/versions/<int:number>/health")
@requires(Permission.VERSION_READ)
@operation("Show the health of a version", answers={200: wire.HealthOut})
def show(model: ModelName, number: int) -> Response:
    """Counts, norms and the tensors at fault; only the state until a worker has read the version."""
    with transaction(read_only=True) as session:
        version = versions.find(session, actor(), model, number, Permission.VERSION_READ)
        return answer(shapes.health(health.report(session, actor(), version)))
