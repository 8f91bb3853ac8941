"""The OpenAPI 3.1 document, made from the routes themselves, and a page to read it."""

import inspect
import re
from typing import Any, Final, cast

from flask import Blueprint, Flask, Response, current_app, jsonify, render_template, request
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from werkzeug.routing import Rule

from registry import wire
from registry.api.operation import EVENT_STREAM, Answer, Operation, Parameter, operation
from registry.domain.names import FORBIDDEN_PARTS, PART
from registry.domain.references import MAX_NUMBER
from registry.request import public

bp = Blueprint("openapi", __name__)
human = Blueprint("docs", __name__, template_folder="templates")

PREFIX: Final = "/api/v1"

_KEPT = "registry.openapi"
_SCHEMA = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"<(?:(?P<converter>\w+):)?(?P<name>\w+)>")
_PART = f"(?!(?:{'|'.join(sorted(FORBIDDEN_PARTS))})(?:/|$)){PART.pattern}"
_CONVERTERS: Final[dict[str, dict[str, Any]]] = {
    "model": {"type": "string", "pattern": f"^{_PART}(?:/{_PART})?$"},
    "part": {"type": "string", "pattern": f"^{_PART}$"},
    "int": {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER},
    "path": {"type": "string", "minLength": 1},
    "": {"type": "string", "minLength": 1, "pattern": "^[^/]+$"},
}

_REQUEST_ID = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
_HEADERS: Final[dict[str, tuple[str, bool, str]]] = {
    "RequestId": ("Names this request in the server's log.", True, "^[0-9a-f]{32}$"),
    "Entity": ("Send it as `If-None-Match` to be told only what changed.", True, '^(?:W/)?".*"$'),
    "Next": ("The page after this one, as `rel=next`; absent on the last.", False, '^<.+>; rel="next"$'),
    "Replayed": ("`true` if this answer was given before under the same Idempotency-Key.", False, "^true$"),
    "Location": ("Where the bytes are, signed for a short while.", True, "^https?://"),
    "RetryAfter": ("Seconds to wait before the same request.", True, "^[0-9]+$"),
    "Authenticate": ("How to authenticate.", True, "^Bearer "),
}
_REFUSALS: Final[dict[int, tuple[str, str, dict[str, str]]]] = {
    400: ("BadRequest", "The request is not well-formed HTTP.", {}),
    401: ("Unauthenticated", "No valid token came along.", {"WWW-Authenticate": "Authenticate"}),
    403: ("Forbidden", "The token, or its user, may not do this.", {}),
    404: ("NotFound", "There is no such thing, or none that you may read.", {}),
    409: ("Conflict", "The present state does not allow it.", {}),
    410: ("Gone", "It was there and was deleted, or has expired.", {}),
    412: ("PreconditionFailed", "It is not as `If-Match` says.", {}),
    413: ("TooLarge", "The body is over its limit.", {}),
    415: ("UnsupportedMediaType", "The body is not `application/json`.", {}),
    416: ("RangeNotSatisfiable", "The range is outside the file.", {}),
    422: ("Invalid", "The request breaks a rule; `code` says which.", {}),
    503: ("Unavailable", "The database or the object store is down.", {"Retry-After": "RetryAfter"}),
    507: ("Exhausted", "The server has no room left.", {}),
}
_SAFE = ("GET", "HEAD")

_IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "Any text of your choosing; the same request under the same key has one effect.",
    {"type": "string", "minLength": 1, "maxLength": 250, "pattern": "^[!-~](?:[ -~]*[!-~])?$"},
    place="header",
)
_IF_NONE_MATCH = Parameter("If-None-Match", "Answer 304 if this is still the `ETag`.", place="header")


@bp.get("/openapi.json")
@public
@operation("Describe this API", answers={200: "application/json"})
def show() -> Response:
    """This document, as OpenAPI 3.1."""
    response = jsonify(document(current_app))
    response.add_etag()
    return cast("Response", response.make_conditional(request))


@human.get("/docs")
@public
def page() -> str:
    """The same for people: every operation with its right, body and answers."""
    return render_template("docs.html", document=document(current_app))


def document(app: Flask) -> dict[str, Any]:
    """Walk the routes under `/api/v1` and describe each from its `@operation`, once for each application."""
    kept: dict[str, Any] | None = app.extensions.get(_KEPT)
    if kept is None:
        kept = app.extensions[_KEPT] = _document(app)
    return kept


def _document(app: Flask) -> dict[str, Any]:
    views = [(rule, app.view_functions[rule.endpoint]) for rule in app.url_map.iter_rules()]
    described = sorted(
        ((rule, view) for rule, view in views if rule.rule.startswith(PREFIX) and hasattr(view, "operation")),
        key=lambda found: found[0].rule,
    )
    refs, schemas = _schemas([view.operation for _, view in described])
    paths: dict[str, dict[str, Any]] = {}
    for rule, view in described:
        entry = paths.setdefault(_path(rule), {})
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            entry[method.lower()] = _describe(rule, view, method, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "weight-registry", "version": "1", "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": {
                name: {
                    "description": meaning,
                    "required": required,
                    "schema": {"type": "string", "pattern": pattern},
                }
                for name, (meaning, required, pattern) in _HEADERS.items()
            },
            "responses": {name: _refusal(meaning, headers) for name, meaning, headers in _REFUSALS.values()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _schemas(operations: list[Operation]) -> tuple[Any, dict[str, Any]]:
    """References to the shapes as they are taken and as they are answered, and the schemas they mean."""
    taken = {each.body for each in operations if each.body}
    answered = {shape for each in operations for shape in each.answers.values() if isinstance(shape, type)}
    shapes: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((shape, "validation") for shape in taken),
        *((shape, "serialization") for shape in answered | {wire.Problem}),
    ]
    refs, schemas = models_json_schema(sorted(shapes, key=lambda each: each[0].__name__), ref_template=_SCHEMA)
    found: dict[str, dict[str, Any]] = schemas.get("$defs", {})
    for schema in found.values():
        schema.setdefault("description", inspect.getdoc(wire.Page))  # a page of something has no docstring of its own
    return refs, found


def _describe(rule: Rule, view: Any, method: str, refs: Any) -> dict[str, Any]:
    operation: Operation = view.operation
    name = rule.endpoint.removeprefix("api.")
    described: dict[str, Any] = {
        "operationId": name,
        "summary": operation.summary,
        "description": inspect.getdoc(view) or "",
        "tags": [name.partition(".")[0]],
        "x-permission": str(view.permission),
        "parameters": [*_path_parameters(rule), *map(_parameter, _parameters(operation, method))],
        "responses": {str(status): _answer(status, shape, method, refs) for status, shape in _answers(view, method)},
    }
    for status in sorted(refusals(rule, view, method)):
        described["responses"][str(status)] = {"$ref": f"#/components/responses/{_REFUSALS[status][0]}"}
    if view.permission == "public":
        described["security"] = []
    if operation.streams:
        described["responses"]["200"]["content"][EVENT_STREAM] = {"schema": {"type": "string"}}
    if operation.body:
        schema = refs[operation.body, "validation"]
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def refusals(rule: Rule, view: Any, method: str) -> set[int]:
    """The statuses a route may refuse with: those that follow from what it is, and those that its view names."""
    operation: Operation = view.operation
    found = set(operation.refuses)
    if view.permission != "public":
        found |= {401, 403, 503}
    if rule.arguments:
        found.add(404)
    if operation.query or _is_free(rule):
        found.add(422)
    if method not in _SAFE:
        found |= {409, 422, 507}
    if operation.body:
        found |= {400, 413, 415}
    return found


def _is_free(rule: Rule) -> bool:
    """Whether a part of the path is any text, which the view then checks."""
    return any(found["converter"] in {None, "path"} for found in _PARAMETER.finditer(rule.rule))


def _refusal(meaning: str, headers: dict[str, str]) -> dict[str, Any]:
    named = {name: {"$ref": f"#/components/headers/{header}"} for name, header in headers.items()}
    schema = {"$ref": _SCHEMA.format(model="Problem")}
    return {
        "description": meaning,
        "headers": _REQUEST_ID | named,
        "content": {"application/problem+json": {"schema": schema}},
    }


def _answers(view: Any, method: str) -> list[tuple[int, Answer]]:
    answers: dict[int, Answer] = dict(view.operation.answers)
    if method == "GET":
        answers |= {304: None}
    return sorted(answers.items())


def _answer(status: int, shape: Answer, method: str, refs: Any) -> dict[str, Any]:
    named = {
        "ETag": "Entity" if method == "GET" and status in {200, 206, 304} else "",
        "Link": "Next" if isinstance(shape, type) and issubclass(shape, wire.Page) else "",
        "Location": "Location" if status == 307 else "",
        "Idempotency-Replayed": "Replayed" if method not in _SAFE and shape is not None else "",
    }
    headers = {name: {"$ref": f"#/components/headers/{header}"} for name, header in named.items() if header}
    described: dict[str, Any] = {"description": _MEANINGS.get(status, "Done."), "headers": _REQUEST_ID | headers}
    if isinstance(shape, str):
        described["content"] = {shape: {"schema": {}}}
    elif shape is not None:
        described["content"] = {"application/json": {"schema": refs[shape, "serialization"]}}
    return described


def _path(rule: Rule) -> str:
    return _PARAMETER.sub(lambda found: "{" + found["name"] + "}", rule.rule)


def _path_parameters(rule: Rule) -> list[dict[str, Any]]:
    return [
        {"name": found["name"], "in": "path", "required": True, "schema": _CONVERTERS[found["converter"] or ""]}
        for found in _PARAMETER.finditer(rule.rule)
    ]


def _parameters(operation: Operation, method: str) -> tuple[Parameter, ...]:
    return (*operation.query, *operation.headers, _IF_NONE_MATCH if method in _SAFE else _IDEMPOTENCY_KEY)


def _parameter(each: Parameter) -> dict[str, Any]:
    return {
        "name": each.name,
        "in": each.place,
        "required": each.required,
        "description": each.meaning,
        "schema": dict(each.schema),
    }


_MEANINGS: Final = {
    201: "Made.",
    202: "A worker does it; ask again.",
    204: "Done; there is nothing to say.",
    206: "The range asked for.",
    304: "It is as you know it.",
    307: "The bytes are elsewhere.",
}
_ABOUT: Final = (
    "Model versions, metrics, lineage and promotion. Errors are application/problem+json with a stable code; "
    "lists carry `next`; unsafe requests accept Idempotency-Key."
)
