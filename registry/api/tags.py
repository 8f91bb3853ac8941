"""`…/tags/{key}`: free annotations of models and versions."""

from http import HTTPStatus

from flask import Blueprint, Response

from registry import wire
from registry.api.operation import operation
from registry.db.session import now
from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import actor, answer, body, requires, transaction
from registry.services import models, tags, versions

bp = Blueprint("tags", __name__)

_OF_MODEL = "/models/<model:model>/tags/<path:key>"
_OF_VERSION = "/models/<model:model>/versions/<int:number>/tags/<path:key>"


@bp.put(_OF_VERSION)
@requires(Permission.TAG_WRITE)
@operation("Set a tag of a version", body=wire.TagIn, answers={200: wire.TagIn}, refuses=(410,))
def set_on_version(model: ModelName, number: int, key: str) -> Response:
    """Its other tags stay."""
    asked = body(wire.TagIn)
    with transaction() as session:
        version = versions.find(session, actor(), model, number, Permission.TAG_WRITE)
        tags.set_on_version(session, actor(), version, {key: asked.value}, now=now(session))
        return answer(asked)


@bp.delete(_OF_VERSION)
@requires(Permission.TAG_WRITE)
@operation("Remove a tag of a version", answers={204: None}, refuses=(410,))
def remove_from_version(model: ModelName, number: int, key: str) -> Response:
    """Its other tags stay."""
    with transaction() as session:
        version = versions.find(session, actor(), model, number, Permission.TAG_WRITE)
        tags.remove_from_version(session, actor(), version, key, now=now(session))
        return Response(status=HTTPStatus.NO_CONTENT)


@bp.put(_OF_MODEL)
@requires(Permission.TAG_WRITE)
@operation("Set a tag of a model", body=wire.TagIn, answers={200: wire.TagIn})
def set_on_model(model: ModelName, key: str) -> Response:
    """Its other tags stay."""
    asked = body(wire.TagIn)
    with transaction() as session:
        row = models.find(session, actor(), model, Permission.TAG_WRITE)
        tags.set_on_model(session, actor(), row, {key: asked.value}, now=now(session))
        return answer(asked)


@bp.delete(_OF_MODEL)
@requires(Permission.TAG_WRITE)
@operation("Remove a tag of a model", answers={204: None})
def remove_from_model(model: ModelName, key: str) -> Response:
    """Its other tags stay."""
    with transaction() as session:
        row = models.find(session, actor(), model, Permission.TAG_WRITE)
        tags.remove_from_model(session, actor(), row, key, now=now(session))
        return Response(status=HTTPStatus.NO_CONTENT)
