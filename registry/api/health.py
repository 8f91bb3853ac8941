"""`/healthz` and `/readyz`: is the process alive, and could it serve."""

from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from registry.db.upgrade import is_current
from registry.domain.errors import RegistryError
from registry.request import parts, public

bp = Blueprint("health", __name__)


@bp.get("/healthz")
@public
def alive() -> Response:
    """The process answers; says nothing of what it stands on."""
    return jsonify(status="ok")


@bp.get("/readyz")
@public
def ready() -> tuple[Response, HTTPStatus]:
    """200 only if the database answers at the schema this code needs, and the bucket can be used."""
    checks = {"database": _database(), "storage": _storage()}
    is_ready = all(check == "ok" for check in checks.values())
    status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    response = jsonify(status="ok" if is_ready else "unavailable", checks=checks)
    if not is_ready:
        response.headers["Retry-After"] = "2"
    return response, status


def _database() -> str:
    try:
        with parts().database.transaction(read_only=True) as session:
            current = is_current(session.connection())
    except RegistryError as error:
        return f"does not answer ({error.code})"
    return "ok" if current else "schema is not current: run 'registry db upgrade'"


def _storage() -> str:
    try:
        parts().store.ping()
    except RegistryError as error:
        return f"does not answer ({error.code})"
    return "ok"
