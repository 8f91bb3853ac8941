import re

from docs.build import HERE, api
from registry.api import openapi
from registry.app import create_app
from registry.config import Config

PAGE = (HERE / "api.md").read_text(encoding="utf-8")


def test_every_operation_has_a_row_and_every_row_is_an_operation():
    operations = [
        f"{method.upper()} {path.removeprefix(openapi.PREFIX)}"
        for path, methods in api()["paths"].items()
        for method in methods
    ]
    assert sorted(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", PAGE, re.MULTILINE)) == sorted(operations)


def test_every_route_of_the_api_is_mentioned():
    app = create_app(Config(database_url="sqlite:////nonexistent/registry.db"))
    routes = {
        re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule.removeprefix(openapi.PREFIX))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(openapi.PREFIX) or rule.endpoint.startswith(("health.", "docs."))
    }
    assert {route for route in routes if route not in PAGE} == set()
