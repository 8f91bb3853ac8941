"""`make docs`: write into the pages here what the code knows better than any writer.

A page keeps its prose; what stands between `<!-- NAME: … -->` and `<!-- end -->` is written anew. tests/docs fails
while a page differs from what this would write.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from http import HTTPStatus
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, Final

import click

import registry
from registry import cli
from registry.api import openapi
from registry.api.problems import _HTTP_CODES
from registry.app import create_app
from registry.config import ClientConfig, Config
from registry.domain import errors
from registry.domain.errors import RegistryError
from registry.domain.gates import GATES, Parameter
from registry.request import STATUS

HERE: Final = Path(__file__).parent
_PART = re.compile(r"(?P<start><!-- (?P<name>[a-z]+): [^\n]*-->\n).*?(?P<end><!-- end -->)", re.DOTALL)
_WIDTH: Final = 110


def rendered(page: str) -> str:
    """The text of a page with its parts written anew."""
    text = (HERE / page).read_text(encoding="utf-8")
    return _PART.sub(lambda found: f"{found['start']}\n{PARTS[page][found['name']]()}\n{found['end']}", text)


def main() -> int:
    """Write every page and say which ones changed."""
    for page in PARTS:
        text = rendered(page)
        if text != (HERE / page).read_text(encoding="utf-8"):
            (HERE / page).write_text(text, encoding="utf-8")
            sys.stdout.write(f"docs/{page}\n")
    return 0


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    first, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([first, f"|{'---|' * len(head)}", *rest]) + "\n"


# Errors

_KINDS: Final = {
    errors.InvalidError: "The input is malformed or breaks a rule",
    errors.WeightsError: "The bytes of a weight file break its format",
    errors.UnauthenticatedError: "Nobody is known to be asking",
    errors.ForbiddenError: "The right is missing",
    errors.NotFoundError: "No such thing, or none that you may see",
    errors.ConflictError: "The present state does not allow it",
    errors.GoneError: "It was there and was deleted",
    errors.PreconditionError: "A stated precondition did not hold",
    errors.TooLargeError: "Over a stated limit",
    errors.ExhaustedError: "The server has no room left",
    errors.UnavailableError: "A part that the server stands on is down",
    errors.LocalError: "On this side of the network: files, disk, addresses",
}
"""Headings in the order of the statuses; an error is listed under the nearest of its kinds."""


def leaves() -> list[type[RegistryError]]:
    """Every error class of the project with a code of its own, by code; classes made while running are none."""
    for module in walk_packages(registry.__path__, "registry."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    found = [kind for kind in _below(RegistryError) if "code" in vars(kind) and _is_declared(kind)]
    return sorted(found, key=lambda kind: kind.code)


def _below(kind: type[RegistryError]) -> Iterator[type[RegistryError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def _is_declared(kind: type[RegistryError]) -> bool:
    module = sys.modules.get(kind.__module__)
    return kind.__module__.startswith("registry.") and getattr(module, kind.__name__, None) is kind


def _status(kind: type[RegistryError]) -> str:
    found = next((STATUS[each] for each in kind.__mro__ if each in STATUS), None)
    return str(int(found)) if found else "–"


def _errors() -> str:
    by_kind: dict[type[RegistryError], list[type[RegistryError]]] = defaultdict(list)
    for leaf in leaves():
        by_kind[next(kind for kind in leaf.__mro__ if kind in _KINDS)].append(leaf)
    sections = []
    for kind, title in _KINDS.items():
        if kind in by_kind:
            rows = [
                (f"`{leaf.code}`", _status(leaf), " ".join((getdoc(leaf) or "").split()), leaf.remedy)
                for leaf in by_kind[kind]
            ]
            sections.append(f"## {title}\n\n" + _table(("code", "status", "meaning", "what to do"), rows))
    return "\n".join(sections)


def _http() -> str:
    rows = [(f"`{code}`", str(status), remedy) for status, (code, remedy) in sorted(_HTTP_CODES.items())]
    return _table(("code", "status", "what to do"), rows)


# Settings


def _settings(config: type[Config | ClientConfig]) -> str:
    rows = []
    for setting in fields(config):
        default = "" if setting.default is MISSING else _default(setting.default)
        rows.append((f"`{setting.metadata['variable']}`", default, setting.metadata["meaning"]))
    return _table(("variable", "default", "meaning"), rows)


def _default(value: object) -> str:
    match value:
        case bool():
            return f"`{int(value)}`"
        case tuple():
            return f"`{','.join(value)}`"
        case "" | Path() if str(value) in {"", "."}:
            return ""
        case _:
            return f"`{value}`"


def _serve() -> str:
    rows = [
        (f"`{option.envvar}`", _default(option.default), option.help or "")
        for option in cli.registry.commands["serve"].params
        if isinstance(option, click.Option) and option.envvar
    ]
    return _table(("variable", "default", "meaning"), rows)


# Command line


def commands() -> Iterator[tuple[str, click.Context]]:
    """Every command that does something, as it is typed, with the context its help is written in."""
    yield from _commands(cli.registry, "registry", None)


def _commands(command: click.Command, name: str, above: click.Context | None) -> Iterator[tuple[str, click.Context]]:
    settings = {**command.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH}
    context = click.Context(command, info_name=name, parent=above, **settings)
    yield context.command_path, context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            yield from _commands(command.commands[child], child, context)


def _command_line() -> str:
    return "\n".join(f"## {path}\n\n```text\n{context.get_help()}\n```\n" for path, context in commands())


# Routes


def api() -> dict[str, Any]:
    """The OpenAPI document of an application that is never run."""
    return openapi.document(create_app(Config(database_url="sqlite:////nonexistent/registry.db")))


def _operations() -> str:
    by_tag: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = defaultdict(list)
    for path, methods in api()["paths"].items():
        for method, operation in methods.items():
            by_tag[operation["tags"][0]].append((method.upper(), path.removeprefix(openapi.PREFIX), operation))
    return "\n".join(f"### {tag}\n\n{_routes(found)}" for tag, found in sorted(by_tag.items()))


def _routes(found: Iterable[tuple[str, str, Mapping[str, Any]]]) -> str:
    rows = []
    for method, path, operation in found:
        query = ", ".join(f"`{each['name']}`" for each in operation["parameters"] if each["in"] == "query")
        body = _shape(operation.get("requestBody", {}))
        answers = [
            f"{status} {_shape(answer)}".strip()
            for status, answer in sorted(operation["responses"].items())
            if int(status) < HTTPStatus.BAD_REQUEST and status != "304"
        ]
        takes = "; ".join(filter(None, (body, f"?{query}" if query else "")))
        permission = f"`{operation['x-permission']}`"
        rows.append((f"`{method} {path}`", operation["summary"], takes, ", ".join(answers), permission))
    return _table(("operation", "does", "takes", "answers", "needs"), rows)


def _shape(part: Mapping[str, Any]) -> str:
    for media_type, content in part.get("content", {}).items():
        name = content["schema"].get("$ref", "").rpartition("/")[2]
        if found := re.fullmatch(r"Page_(\w+)_", name):
            return f"list of `{found[1]}`"
        return f"`{name}`" if name else f"`{media_type}`" if media_type != "*/*" else "bytes"
    return ""


# Gates


def _gates() -> str:
    def told(name: str, parameter: Parameter) -> str:
        values = parameter.schema.get("enum")
        said = f"`{name}`" + (f" ({', '.join(map(str, values))})" if values else "")
        return said if parameter.required else f"[{said}]"

    rows = [
        (f"`{each.kind}`", each.meaning, ", ".join(told(*named) for named in each.parameters.items()))
        for each in GATES.values()
    ]
    return _table(("kind", "passes if", "parameters"), rows)


PARTS: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "errors.md": {"errors": _errors, "http": _http},
    "configuration.md": {
        "server": lambda: _settings(Config),
        "client": lambda: _settings(ClientConfig),
        "serve": _serve,
    },
    "cli.md": {"commands": _command_line},
    "api.md": {"operations": _operations},
    "promotion.md": {"gates": _gates},
}
"""What is written where: page, name of the part, its writer."""

if __name__ == "__main__":
    raise SystemExit(main())
