"""Every route of the application, as it is registered: who may use it, and who may not."""

from dataclasses import dataclass

import pytest
from werkzeug.routing import Rule

from registry.domain.access import ALLOWED, EVERYONE, Permission, Role, Scope
from registry.domain.names import ModelName
from registry.services import models
from tests.support.world import PREFIX, T0, code

MODEL = ModelName("vision", "yolo")
VALUES = {
    "model": str(MODEL),
    "namespace": MODEL.namespace,
    "number": "1",
    "user": "ana",
    "name": "ana",
    "alias": "champion",
    "stage": "production",
    "path": "a.bin",
    "key": "k",
    "other": "2",
}
PUBLIC = {
    "/healthz",
    "/readyz",
    "/docs",
    f"{PREFIX}/openapi.json",
    f"{PREFIX}/policy-schema",
    "/login",
    "/logout",
    "/static/registry.css",
    "/favicon.ico",
}
# Where the thing is named by the body, or by nothing: enough for the view to know what is asked of it.
BODIES = {
    "/models": {"name": str(MODEL)},
    "/uploads": {"model": str(MODEL)},
    "/users": {"name": "dora"},
    "/users/<name>": {},
    "/tokens": {"name": "t"},
    "/namespaces": {"name": "audio"},
    "/webhooks": {"namespace": MODEL.namespace, "url": "https://hooks.example.com/"},
}
QUERIES = {
    "/resolve": {"ref": str(MODEL)},
    "/events": {"namespace": MODEL.namespace},
    "/storage": {"namespace": MODEL.namespace},
    "/webhooks": {"namespace": MODEL.namespace},
}
UNSAFE = {"POST", "PUT", "PATCH", "DELETE"}
# A random id names nothing: 404 for everybody.
NOT_FOUND_BY_ID = {"upload", "promotion", "consumer", "webhook"}
OF_NAMESPACE = ("/resolve", "/events", "/storage", "/webhooks")  # the query or the body names it
WHOAMI = "/whoami"  # tells a token what it is, whatever its scope


@dataclass(frozen=True)
class Route:
    method: str
    rule: Rule
    permission: Permission

    @property
    def path(self) -> str:
        return self.rule.rule.removeprefix(PREFIX)

    @property
    def plain(self) -> str:
        """The rule without its converters."""
        return "".join(f"<{part.split(':')[-1]}" if at else part for at, part in enumerate(self.path.split("<")))

    @property
    def url(self) -> str:
        url = self.plain
        for name in self.rule.arguments:
            url = url.replace(f"<{name}>", VALUES.get(name, "0" * 32))
        return url

    @property
    def is_of_namespace(self) -> bool:
        """Whether it is about a namespace or a model in it."""
        return bool({"model", "namespace"} & self.rule.arguments) or self.plain in OF_NAMESPACE

    def ask(self, http, token):
        return http.request(
            self.method,
            self.url,
            token=token,
            query_string=QUERIES.get(self.plain, {}),
            **({"json": BODIES.get(self.plain, {})} if self.method in UNSAFE else {}),
        )

    def __str__(self) -> str:
        return f"{self.method} {self.plain}"


def rules(app):
    return list(app.url_map.iter_rules())


def routes(app):
    found = []
    for rule in rules(app):
        permission = getattr(app.view_functions[rule.endpoint], "permission", None)
        if rule.rule.startswith(PREFIX) and isinstance(permission, Permission):
            found += [Route(method, rule, permission) for method in sorted(rule.methods - {"OPTIONS", "HEAD"})]
    return found


def wrong(http, asked, expected):
    """The routes that did not answer as expected. One list, so that a failure shows all of them."""
    found = {}
    for route, token in asked:
        answer = route.ask(http, token)
        if answer.status_code != expected:
            found[str(route)] = (answer.status_code, answer.text[:200])
    return found


@pytest.fixture
def model(database, admin, people):
    people.secret("cleo", "reader", MODEL.namespace)
    with database.transaction() as session:
        models.create(session, admin, MODEL, now=T0)
    return MODEL


def test_every_view_names_its_permission_or_is_public_on_purpose(app):
    marks = {rule.rule: getattr(app.view_functions[rule.endpoint], "permission", None) for rule in rules(app)}
    assert [rule for rule, mark in marks.items() if mark is None] == []
    assert {rule for rule, mark in marks.items() if mark == "public"} <= PUBLIC
    assert len(routes(app)) >= 40


def test_a_permission_to_read_never_guards_what_changes_something(app):
    changing = {str(route) for route in routes(app) if route.method in UNSAFE and route.permission.endswith(":read")}
    # A copy reads its source; the right to publish is checked in the target, which the body names.
    # What would become of a promotion may be read; to ask for one, the view checks the right to do so.
    # Who may read two versions may have measured how far apart they are: that is reading, by a worker.
    assert changing <= {
        "POST /models/<model>/versions/<number>/copy",
        "POST /models/<model>/stages/<stage>/promotions",
        "POST /models/<model>/versions/<number>/diff/<ref>",
    }


def test_without_a_token_nothing_is_answered(app, http, model):
    assert wrong(http, [(route, None) for route in routes(app)], 401) == {}


def test_with_a_strangers_token_nothing_in_the_namespace_is_there(app, http, model, make_token):
    stranger = make_token("sam")
    asked = [(route, stranger) for route in routes(app) if route.is_of_namespace]
    assert len(asked) >= 25
    assert wrong(http, asked, 404) == {}


def test_a_role_in_another_namespace_is_a_strangers(app, http, model, make_token):
    stranger = make_token("sam", "admin", "audio")
    asked = [(route, stranger) for route in routes(app) if route.is_of_namespace]
    assert wrong(http, asked, 404) == {}


@pytest.mark.parametrize("role", [Role.READER, Role.WRITER, Role.PROMOTER])
def test_a_role_is_refused_what_is_above_it(app, http, model, make_token, role):
    secret = make_token("rita", role, MODEL.namespace)
    asked = [
        (route, secret)
        for route in routes(app)
        if route.permission not in ALLOWED[role] and not NOT_FOUND_BY_ID & route.rule.arguments
    ]
    assert len(asked) >= {Role.READER: 15, Role.WRITER: 5, Role.PROMOTER: 3}[role]
    assert wrong(http, asked, 403) == {}


def test_what_is_for_administrators_is_refused_to_an_admin_of_a_namespace(app, http, model, make_token):
    secret = make_token("nora", "admin", MODEL.namespace)
    for_administrators = {Permission.USER_MANAGE, Permission.NAMESPACE_CREATE}
    asked = [(route, secret) for route in routes(app) if route.permission in for_administrators]
    assert len(asked) == 4
    assert wrong(http, asked, 403) == {}


def test_a_token_is_held_to_the_actions_of_its_scope(app, http, model, make_token):
    """Each route is asked with a token that may do everything else."""
    asked = []
    for route in routes(app):
        if route.plain == WHOAMI or NOT_FOUND_BY_ID & route.rule.arguments:
            continue
        others = tuple(str(each) for each in Permission if each != route.permission)
        scope = Scope(others)
        asked.append((route, make_token("root", is_admin=True, scope=scope)))
    assert wrong(http, [pair for pair in asked if pair[0].permission != Permission.MODEL_READ], 403) == {}
    # Who may not read models is not told which there are.
    reads = {str(route): route.ask(http, token) for route, token in asked if route.permission == Permission.MODEL_READ}
    assert code(reads.pop("GET /models/<model>")) == (404, "MODEL_NOT_FOUND")
    for answer in reads.values():
        assert answer.status_code == 403 or answer.json["items"] == []


def test_a_token_is_held_to_the_models_of_its_scope(app, http, model, make_token):
    elsewhere = make_token("root", is_admin=True, scope=Scope(models="vision/other"))
    of_models = [(route, elsewhere) for route in routes(app) if "model" in route.rule.arguments]
    assert len(of_models) >= 20
    assert wrong(http, of_models, 404) == {}
    of_all = [
        (route, elsewhere)
        for route in routes(app)
        if not {"model"} | NOT_FOUND_BY_ID & route.rule.arguments
        and route.plain not in (WHOAMI, "/models", "/resolve", "/uploads")
    ]
    assert wrong(http, of_all, 403) == {}
    assert http.items("/models", token=elsewhere) == []
    assert code(http.get("/resolve?ref=vision/yolo", token=elsewhere)) == (404, "MODEL_NOT_FOUND")


def test_everyone_signed_in_may_manage_their_own_tokens_and_nothing_more():
    assert {Permission.TOKEN_MANAGE, Permission.SEARCH_READ} == EVERYONE


def test_a_refusal_changes_nothing(app, http, database, model, make_token):
    def everything():
        from sqlalchemy import text

        with database.transaction(read_only=True) as session:
            tables = ("users", "tokens", "namespaces", "grants", "models", "versions", "pointers", "events", "uploads")
            rows = {table: session.execute(text(f"SELECT * FROM {table}")).all() for table in tables}
        return {table: sorted(str(row) for row in found) for table, found in rows.items()}

    secret = make_token("rita", "reader", MODEL.namespace)
    http.get(WHOAMI, token=secret)  # the use of a token is noted, once in a while
    before = everything()
    for route in routes(app):
        if route.method in UNSAFE and route.permission != Permission.TOKEN_MANAGE:
            assert route.ask(http, secret).status_code >= 400, str(route)
            assert route.ask(http, None).status_code == 401
    assert everything() == before
