"""The OpenAPI document and the application hold each other to their word.

`make soak` asks many more questions.
"""

import re
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from registry.api import openapi
from registry.app import create_app
from registry.config import Config
from registry.domain.access import Permission
from tests.support.pushing import artifact, push, weights
from tests.support.world import ADMIN_SECRET, PREFIX

FEW = pytest.param(12, id="few")
MANY = pytest.param(500, id="many", marks=[pytest.mark.soak, pytest.mark.timeout(3600)])
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def silent():
    """An application that needs nothing behind it to describe itself."""
    return create_app(Config(database_url="sqlite:////nonexistent/registry.db"))


@pytest.fixture(scope="module")
def document(silent):
    return openapi.document(silent)


def described(document):
    return [operation for methods in document["paths"].values() for operation in methods.values()]


def test_every_route_of_the_api_is_described(silent, document):
    unread = {"GET /api/v1/openapi.json"}  # schemathesis leaves the document itself out, and what is malformed
    labels = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert {operation.label for operation in operations(silent)} == labels - unread
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in silent.url_map.iter_rules()
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}
        if rule.rule.startswith(PREFIX)
    }
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == routes


def test_an_operation_is_named_after_its_resource_and_what_it_does(document):
    names = [operation["operationId"] for operation in described(document)]
    assert [name for name in names if not re.fullmatch(r"[a-z]+\.[a-z_]+", name)] == []
    assert len(set(names)) == len(names)
    # Generated clients call their functions by these.
    assert {"models.index", "versions.resolve", "uploads.commit", "stages.promote", "stages.rollback"} <= set(names)


def test_an_operation_says_what_it_takes_answers_and_refuses(document):
    permissions = {str(permission) for permission in Permission} | {"public"}
    for operation in described(document):
        name = operation["operationId"]
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["x-permission"] in permissions, name
        assert min(operation["responses"]) < "300", name
        if operation["x-permission"] != "public":
            assert {"401", "403", "503"} <= set(operation["responses"]), name
        for parameter in operation["parameters"]:
            assert parameter["schema"]["type"], (name, parameter["name"])
            bounds = {"minimum", "maximum"} if parameter["schema"]["type"] == "integer" else set()
            assert bounds <= set(parameter["schema"]), (name, parameter["name"])


def test_every_reference_means_something(document):
    def references(part):
        if isinstance(part, dict):
            yield from [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        for child in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from references(child)

    for reference in set(references(document)):
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_every_schema_is_one_of_json_schema_2020_12(document):
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema | {"$schema": "https://json-schema.org/draft/2020-12/schema"})
        assert schema["description"], name


def test_the_document_is_one_of_openapi_3_1(silent):
    loaded = schemathesis.openapi.from_wsgi(f"{PREFIX}/openapi.json", silent)
    loaded.validate()
    assert loaded.specification.version == "3.1.0"


def test_the_document_is_open_to_all_and_not_sent_twice(silent):
    client = silent.test_client()
    first = client.get(f"{PREFIX}/openapi.json")
    assert (first.status_code, first.mimetype) == (200, "application/json")
    again = client.get(f"{PREFIX}/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_the_page_for_people_shows_every_operation_and_shape(silent, document):
    page = silent.test_client().get("/docs")
    assert (page.status_code, page.mimetype) == (200, "text/html")
    anchors = set(re.findall(r'<section id="([^"]+)"', page.text))
    shapes = set(document["components"]["schemas"])
    assert anchors == shapes | {operation["operationId"] for operation in described(document)}
    assert set(re.findall(r'href="#([^"]+)"', page.text)) <= anchors
    assert "{{" not in page.text
    assert "Undefined" not in page.text


@dataclass(frozen=True)
class Scene:
    """What is there, by the name that a path, a query or an operation gives it."""

    paths: dict[str, list[Any]]
    queries: dict[str, dict[str, Any]]
    bodies: dict[str, Any]

    def cases(self, operation, mode):
        """Requests about what is there, and requests about whatever the generator thinks of."""
        name = operation.definition.raw["operationId"]
        names = [parameter.name for parameter in operation.path_parameters]
        named = {each: self.paths.get(f"{name}.{each}", self.paths[each]) for each in names}
        path = st.fixed_dictionaries({each: st.sampled_from(values) for each, values in named.items()})
        query, body = self.queries.get(name), self.bodies.get(name)

        def cases(**given):
            return operation.as_strategy(mode, **given)

        found = path.flatmap(lambda path: cases(path_parameters=path))
        if mode is RIGHT and (query or body):
            given = {"query": query} if query else {"body": body}
            found |= path.flatmap(lambda path: cases(path_parameters=path, **given))
        is_safe = name != "tokens.delete"  # the generator would think of the token in use
        return found | cases() if names and is_safe else found


@pytest.fixture
def scene(http, make_token, monkeypatch):
    monkeypatch.setattr("registry.api.events.LONGEST_WAIT_S", 0.01)  # what is asked at random need not wait
    make_token("ana", "writer", "vision")
    files = {"model.safetensors": weights(), "config/a.json": b"{}"}
    push(http, "vision/yolo", files, aliases=["champion"], metrics=[{"name": "mAP", "value": 0.5}], tags={"gpu": "a"})
    push(http, "vision/yolo", {"model.safetensors": weights(2.0)}, parents=["vision/yolo:1"], tags={"gpu": "a"})
    push(http, "vision/yolo", {"model.safetensors": weights(3.0)}, size=50, kind="checkpoint")
    push(http, "vision/still")
    http.put("/models/vision/yolo/tags/task", json={"value": "detect"})
    stage = "/models/vision/yolo/stages/production"
    promotions = [http.post(f"{stage}/promotions", json={"version": number}).json["id"] for number in (1, 2)]
    uploads = [http.post("/uploads", json={"model": "vision/yolo"}).json["id"] for _ in range(4)]
    consumers = [
        http.post("/models/vision/yolo/consumers", json={"name": name, "follows": "vision/yolo@production"}).json["id"]
        for name in ("a", "b")
    ]
    http.put(f"{stage}/policy", json={"gates": [{"kind": "no_pickle"}]})
    http.put(f"{stage}/policy", json={"approvals": {"required": 1}})
    waiting = [http.post(f"{stage}/promotions", json={"version": number}).json["id"] for number in (1, 2)]
    ana = make_token("ana", "promoter", "vision")
    http.post("/models/vision/yolo/versions/1/copy", json={"to": "vision/twin"}, token=ana)
    http.put("/models/vision/twin/stages/production/policy", json={"approvals": {"required": 1}})
    others = http.post("/models/vision/twin/stages/production/promotions", json={"version": 1}, token=ana).json["id"]
    http.put(f"{stage}/policy", json={})
    hook = {"namespace": "vision", "url": "https://hooks.example.com/"}
    webhooks = [http.post("/webhooks", json=hook).json["id"] for _ in range(4)]
    delivery = http.items(f"/webhooks/{webhooks[0]}/deliveries")[0]["id"]
    return Scene(
        paths={
            "model": ["vision/yolo"],
            "number": [1, 2, 3],
            "alias": ["champion"],
            "stage": ["production"],
            "namespace": ["vision"],
            "user": ["ana"],
            "name": ["ana"],
            "upload": uploads[:1],
            "uploads.commit.upload": uploads[1:3],
            "uploads.delete.upload": uploads[3:],
            "promotion": promotions,
            "promotions.reject.promotion": waiting[:1],
            "promotions.cancel.promotion": waiting[1:2],
            "promotions.approve.promotion": [others],
            "consumer": consumers[:1],
            "consumers.delete.consumer": consumers[1:],
            "path": ["model.safetensors", "config/a.json"],
            "ref": ["vision/still:1", "vision/still"],
            "diffs.show.model": ["vision/still"],
            "diffs.show.number": [1],
            "diffs.measure.model": ["vision/still"],
            "diffs.measure.number": [1],
            "key": ["gpu", "task"],
            "webhook": webhooks[:1],
            "webhooks.update.webhook": webhooks[1:2],
            "webhooks.delete.webhook": webhooks[2:],
            "delivery": [delivery],
            "tokens.delete.number": [http.post("/tokens", json={"name": "spare"}).json["id"], 10**6],
        },
        queries={
            "stages.changes": {"since": "2026-01-01T00:00:00Z"},
            "versions.resolve": {"ref": "vision/yolo@production"},
            "artifacts.segments": {"artifact": "model.safetensors", "urls": "1", "limit": 1},
            "artifacts.tensors": {"artifact": "model.safetensors"},
            "diffs.show": {"class": "changed,unknown", "statistics": "1", "limit": 1},
        },
        bodies={
            "policies.put": {"gates": [{"kind": "no_pickle"}]},
            "policies.put_stages_of_model": {"stages": ["staging", "production"]},
            "policies.put_stages": {"stages": ["staging", "production"]},
            "aliases.point": {"number": 1},
            "consumers.create": {"name": "edge", "follows": "vision/yolo"},
            "models.create": {"name": "vision/other"},
            "stages.promote": {"version": 1},
            "uploads.commit": {"artifacts": [artifact("empty.txt", b"")]},
            "uploads.create": {"model": "vision/yolo"},
            "uploads.ask": {"segments": []},
            "uploads.report": {"digests": []},
            "users.create": {"name": "bea"},
            "versions.copy": {"to": "vision/copy"},
            "webhooks.create": hook,
            "webhooks.replay": {"delivery": delivery},
        },
    )


def operations(app):
    config = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
    schema = schemathesis.openapi.from_wsgi(f"{PREFIX}/openapi.json", app, config=config)
    return [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]


def answered(operation, cases, examples):
    """The statuses that an operation answered with, each of them as documented."""
    found = set()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case):
        response = case.call(headers={"Authorization": f"Bearer {ADMIN_SECRET}"})
        found.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    ask()
    return found


@pytest.mark.parametrize("examples", [FEW, MANY])
def test_every_route_answers_as_the_document_says(app, http, scene, examples):
    refused = []
    for operation in operations(app):
        found = answered(operation, scene.cases(operation, RIGHT), examples)
        refused += [(operation.label, found)] if min(found) >= 400 else []
    assert refused == [], "what only ever refuses is not tested"
    assert http.get("/whoami").status_code == 200


@pytest.mark.parametrize("examples", [FEW, MANY])
def test_every_route_refuses_what_the_document_does_not_allow(app, http, scene, examples):
    for operation in operations(app):
        if operation.body or operation.query or "{model}" in operation.path:  # else nothing can be wrong
            answered(operation, scene.cases(operation, WRONG), examples)
    assert http.get("/whoami").status_code == 200
