"""`/storage`: how much is registered and how much is stored for it."""

from flask import Blueprint, Response, request

from registry import wire
from registry.api.operation import Parameter, operation
from registry.domain.access import Permission
from registry.request import actor, answer, requires, transaction
from registry.services import storage_use

bp = Blueprint("storage", __name__)


@bp.get("/storage")
@requires(Permission.STORAGE_READ)
@operation(
    "Measure what is registered and stored",
    answers={200: wire.StorageOut},
    query=(Parameter("namespace", "Only this namespace; needed by everyone but administrators."),),
    refuses=(404,),
)
def show() -> Response:
    """`logical_bytes` counts every ready version whole; `stored_bytes` counts shared bytes once a namespace."""
    with transaction(read_only=True) as session:
        use = storage_use.measure(session, actor(), request.args.get("namespace"))
        return answer(wire.StorageOut.model_validate(use))
