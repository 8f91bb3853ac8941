import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from docs.build import HERE
from registry import cli
from registry.config import ClientConfig, Config
from tests.support import ROOT

ROW = re.compile(r"^\| `([A-Z][A-Z0-9_]+)` \|", re.MULTILINE)
VARIABLE = re.compile(r"\bREGISTRY_[A-Z0-9_]*[A-Z0-9]\b")

SERVE = {option.envvar for option in cli.registry.commands["serve"].params if option.envvar}
SETTINGS = [*Config.variables(), *ClientConfig.variables(), *SERVE]

# What `registry follow` tells the command that it runs.
TOLD_TO_COMMANDS = {f"REGISTRY_{name}" for name in ("SEQ", "VERSION", "MODEL", "REF", "DIR")}

# Who may look at the environment: the settings, and what hands it on to the processes of the one-machine stack.
READERS = {"registry/config.py", "registry/cli/_server.py"}
SOURCES = sorted(path for folder in ("registry", "migrations") for path in (ROOT / folder).rglob("*.py"))


def test_every_setting_has_exactly_one_row():
    rows = Counter(ROW.findall((HERE / "configuration.md").read_text(encoding="utf-8")))
    assert {setting: rows[setting] for setting in SETTINGS} == dict.fromkeys(SETTINGS, 1)


def test_every_row_is_a_setting():
    rows = ROW.findall((HERE / "configuration.md").read_text(encoding="utf-8"))
    assert set(rows) == set(SETTINGS)


def test_no_variable_means_two_settings():
    assert [name for name, count in Counter(SETTINGS).items() if count > 1] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_environment_is_read_in_one_place(path):
    if path.relative_to(ROOT).as_posix() not in READERS:
        assert environment_reads(path) == []


def test_reading_the_environment_is_noticed(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("import os\nfrom os import getenv\nos.environ['A']\nos.getenv('B')\n")
    assert environment_reads(file) == [2, 3, 4]


@pytest.mark.parametrize(
    "path",
    [
        *SOURCES,
        *(path for path in sorted(HERE.rglob("*.md")) if path.parent.name != "adr"),
        *(path for path in sorted((ROOT / "docker").iterdir()) if path.is_file()),
        ROOT / "README.md",
    ],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_a_variable_that_is_mentioned_exists(path):
    code_of_the_root = {"REGISTRY_ERROR"}
    mentioned = set(VARIABLE.findall(path.read_text(encoding="utf-8")))
    assert mentioned - set(SETTINGS) - TOLD_TO_COMMANDS - code_of_the_root == set()


def environment_reads(path: Path) -> list[int]:
    """Lines that name `os.environ` or `os.getenv`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Attribute)
            and node.attr in {"environ", "environb", "getenv", "getenvb"}
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        )
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {alias.name for alias in node.names} & {"environ", "environb", "getenv", "getenvb"}
        )
    ]
    return sorted(lines)
