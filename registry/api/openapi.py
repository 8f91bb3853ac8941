"""The OpenAPI 3.1 document, made from the routes themselves, and a page to read it."""

import inspect
import re
from functools import cache
from typing import Any

from flask import Blueprint, Flask, Response, current_app, jsonify, render_template_string
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from registry import wire
from registry.api.operation import Operation
from registry.domain.names import PART
from registry.request import public

bp = Blueprint("openapi", __name__)
human = Blueprint("docs", __name__)

PREFIX = "/api/v1"
_REF = "#/components/schemas/{model}"
_PROBLEM = {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}}
_PROBLEMS = (400, 401, 403, 404, 405, 409, 410, 412, 413, 414, 415, 416, 422, 431, 503, 507)
_PARAMETER = re.compile(r"<(?:(?P<converter>\w+):)?(?P<name>\w+)>")
_CONVERTERS: dict[str, dict[str, Any]] = {
    "model": {"type": "string", "pattern": f"^{PART.pattern}(/{PART.pattern})?$"},
    "part": {"type": "string", "pattern": f"^{PART.pattern}$"},
    "int": {"type": "integer", "minimum": 0},
    "path": {"type": "string", "minLength": 1},
    "": {"type": "string", "minLength": 1, "pattern": "^[^/]+$"},
}


@bp.get("/openapi.json")
@public
def show() -> Response:
    """The document."""
    return jsonify(document(current_app))


@human.get("/docs")
@public
def page() -> str:
    """The same for people: every operation with its right, body and answers."""
    described = document(current_app)
    return render_template_string(_PAGE, document=described, schemas=described["components"]["schemas"])


@cache
def document(app: Flask) -> dict[str, Any]:
    """Walk the routes under `/api/v1` and describe each from its `@operation`."""
    views = [(rule, app.view_functions[rule.endpoint]) for rule in app.url_map.iter_rules()]
    described = [
        (rule, view, view.operation)
        for rule, view in views
        if rule.rule.startswith(PREFIX) and hasattr(view, "operation")
    ]
    shapes = {shape for _, _, operation in described for shape in _shapes(operation)} | {wire.Problem}
    refs, schemas = models_json_schema(
        [(shape, "validation") for shape in sorted(shapes, key=lambda shape: shape.__name__)], ref_template=_REF
    )
    paths: dict[str, dict[str, Any]] = {}
    for rule, view, operation in sorted(described, key=lambda found: found[0].rule):
        entry = paths.setdefault(_path(rule), {})
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            entry[method.lower()] = _describe(rule, view, operation, method, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "weight-registry", "version": "1", "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _shapes(operation: Operation) -> list[type[BaseModel]]:
    found = [shape for shape in operation.answers.values() if isinstance(shape, type)]
    return [*found, operation.body] if operation.body else found


def _describe(rule: Rule, view: Any, operation: Operation, method: str, refs: Any) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": f"{rule.endpoint.removeprefix('api.')}.{method.lower()}",
        "summary": operation.summary,
        "description": inspect.getdoc(view) or "",
        "tags": [rule.endpoint.removeprefix("api.").partition(".")[0]],
        "x-permission": str(view.permission),
        "parameters": [*_path_parameters(rule), *_query_parameters(operation), *_header_parameters(method)],
        "responses": {str(status): _answer(shape, refs) for status, shape in operation.answers.items()},
    }
    if method == "GET":
        described["responses"].setdefault("304", {"description": "Not modified"})
    for status in _PROBLEMS:
        described["responses"].setdefault(str(status), {"description": "Refused", "content": _PROBLEM})
    if operation.body:
        schema = refs[operation.body, "validation"]
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _answer(shape: type[BaseModel] | str | None, refs: Any) -> dict[str, Any]:
    if shape is None:
        return {"description": "No body"}
    if isinstance(shape, str):
        return {"description": "Bytes", "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    return {"description": "Done", "content": {"application/json": {"schema": refs[shape, "validation"]}}}


def _path(rule: Rule) -> str:
    return _PARAMETER.sub(lambda found: "{" + found["name"] + "}", rule.rule)


def _path_parameters(rule: Rule) -> list[dict[str, Any]]:
    return [
        {"name": found["name"], "in": "path", "required": True, "schema": _CONVERTERS[found["converter"] or ""]}
        for found in _PARAMETER.finditer(rule.rule)
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {
            "name": each.name,
            "in": "query",
            "required": each.required,
            "description": each.meaning,
            "schema": dict(each.schema),
        }
        for each in operation.query
    ]


def _header_parameters(method: str) -> list[dict[str, Any]]:
    if method == "GET":
        return []
    schema = {"type": "string", "minLength": 1, "maxLength": 250, "pattern": "^[!-~]+$"}
    return [{"name": "Idempotency-Key", "in": "header", "required": False, "schema": schema}]


_ABOUT = (
    "Model versions, metrics, lineage and promotion. Errors are application/problem+json with a stable code; "
    "lists carry `next`; unsafe requests accept Idempotency-Key."
)

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>weight-registry API</title>
<link rel="stylesheet" href="/static/registry.css">
<main class="docs"><h1>weight-registry API</h1><p>{{ document.info.description }}
The document itself: <a href="/api/v1/openapi.json">/api/v1/openapi.json</a>.</p>
{% for path, methods in document.paths.items() %}{% for method, operation in methods.items() %}
<section><h2><code>{{ method|upper }} {{ path }}</code></h2>
<p>{{ operation.summary }}. {{ operation.description }}</p>
<p>Needs <code>{{ operation["x-permission"] }}</code>.
{% if operation.requestBody %}Takes <code>{{ operation.requestBody.content["application/json"].schema["$ref"].split("/")|last }}</code>.{% endif %}
{% for status, answer in operation.responses.items() if status|int < 400 %}<code>{{ status }}</code>
{% if answer.content and answer.content["application/json"] %}<code>{{ answer.content["application/json"].schema["$ref"].split("/")|last }}</code>{% endif %}
{% endfor %}</p>
{% set query = operation.parameters|selectattr("in", "equalto", "query")|list %}
{% if query %}<ul>{% for parameter in query %}<li><code>{{ parameter.name }}</code> {{ parameter.description }}</li>{% endfor %}</ul>{% endif %}
</section>{% endfor %}{% endfor %}
<h1>Shapes</h1>{% for name, schema in schemas.items() %}<section id="{{ name }}"><h2><code>{{ name }}</code></h2>
<p>{{ schema.description }}</p><pre>{{ schema.properties|tojson(indent=2) }}</pre></section>{% endfor %}
</main></html>"""
