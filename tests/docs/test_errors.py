import ast
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from docs.build import HERE, leaves
from registry import cli
from registry.api.problems import _HTTP_CODES
from registry.domain.errors import LocalError, RegistryError
from registry.request import STATUS
from tests.support import ROOT

LEAVES = leaves()
CODE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")
ROW = re.compile(r"^\| `([A-Z0-9_]+)` \|", re.MULTILINE)
COMMAND = re.compile(r"['`]registry ([a-z]+)(?: ([a-z]+))?")


def named(kinds):
    return pytest.mark.parametrize("leaf", kinds, ids=[f"{kind.code}-{kind.__module__}" for kind in kinds])


def test_every_code_has_a_row_and_every_row_is_a_code():
    page = (HERE / "errors.md").read_text(encoding="utf-8")
    refused = [code for code, _ in _HTTP_CODES.values()]
    assert Counter(ROW.findall(page)) == Counter([leaf.code for leaf in LEAVES]) + Counter(refused)


def test_no_two_errors_share_a_code():
    homes: dict[str, list[str]] = {}
    for leaf in LEAVES:
        homes.setdefault(leaf.code, []).append(f"{leaf.__module__}.{leaf.__name__}")
    assert {code: found for code, found in homes.items() if len(found) > 1} == {}


@named(LEAVES)
def test_a_code_is_upper_snake_case(leaf):
    assert CODE.fullmatch(leaf.code)


@named(LEAVES)
def test_an_error_says_what_it_means_in_one_line(leaf):
    meaning = (vars(leaf).get("__doc__") or "").strip()
    assert meaning.endswith((".", "?"))
    assert "\n\n" not in meaning


@named(LEAVES)
def test_an_error_says_what_to_do(leaf):
    assert leaf.remedy.endswith((".", "]"))


@named(LEAVES)
def test_an_error_has_a_status_or_stays_on_the_clients_side(leaf):
    assert any(kind in STATUS for kind in leaf.__mro__) or issubclass(leaf, LocalError)


@named(LEAVES)
def test_a_remedy_names_commands_that_exist(leaf):
    for command, child in COMMAND.findall(leaf.remedy):
        assert command in cli.registry.commands, f"there is no 'registry {command}'"
        group = cli.registry.commands[command]
        if hasattr(group, "commands") and child:
            assert child in group.commands, f"there is no 'registry {command} {child}'"


@named(LEAVES)
def test_every_error_is_raised_somewhere(leaf):
    assert leaf.__name__ in USED


def used() -> Iterator[str]:
    """Names of classes that are called, raised, or handed on as a value; catching or declaring one does not count."""
    for path in (ROOT / "registry").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=function, args=arguments):
                    if not (isinstance(function, ast.Name) and function.id in {"isinstance", "issubclass", "suppress"}):
                        yield from names(function, *arguments, *(keyword.value for keyword in node.keywords))
                case ast.Raise(exc=raised) if raised is not None:
                    yield from names(raised)
                case ast.Dict(values=values) | ast.Tuple(elts=values) | ast.List(elts=values):
                    yield from names(*values)
                case ast.IfExp(body=body, orelse=other):
                    yield from names(body, other)
                case ast.Return(value=value) | ast.Assign(value=value) if value is not None:
                    yield from names(value)


def names(*nodes: ast.expr) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


USED = frozenset(used())


def test_an_unknown_code_of_a_newer_server_is_no_error_of_ours():
    RegistryError.rebuild("FROM_THE_FUTURE", "Something new.", "", {})
    assert [leaf.code for leaf in leaves()] == [leaf.code for leaf in LEAVES]
