import ast
import re
import subprocess
import sys

import click
import pytest

from docs.build import HERE
from registry import cli
from tests.support import ROOT
from tests.support.live import TOKEN, live_registry

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README} | {
    f"docs/{path.name}": path.read_text(encoding="utf-8")
    for path in HERE.glob("*.md")
    if path.name not in {"cli.md", "errors.md"}
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks of these languages, in order."""
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def code(text: str) -> str:
    """Everything that is shown as code."""
    return "\n".join([*blocks(text, "sh"), *re.findall(r"`([^`\n]+)`", text)])


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    named = {target for line in re.findall(r"\bmake ([a-z][a-z -]*)", code(PAGES[page])) for target in line.split()}
    assert named - TARGETS == set()


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page):
    for line in re.findall(r"(?:^|\$\()registry ([a-z][^`\n)]*)", code(PAGES[page]), re.MULTILINE):
        command: click.Command = cli.registry
        for word in line.split():
            if isinstance(command, click.Group) and word in command.commands:
                command = command.commands[word]
        assert command is not cli.registry, f"there is no 'registry {line}'"
        known = {name for option in command.params for name in option.opts} | {"--help"}
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", line)) - known == set()


@pytest.mark.parametrize("page", PAGES)
def test_python_compiles(page):
    for block in blocks(PAGES[page], "python"):
        ast.parse(block)
    for block in re.findall(r"<<'PYTHON'\n(.*?)^PYTHON", PAGES[page], re.MULTILINE | re.DOTALL):
        ast.parse(block)


@pytest.fixture(scope="module")
def shell(tmp_path_factory, s3_config):
    """Runs a script as a newcomer would: in an empty folder, logged in nowhere, beside a running registry."""
    tmp_path = tmp_path_factory.mktemp("newcomer")
    (tmp_path / "bin").mkdir()
    for name, command in (("registry", " -m registry"), ("python", ""), ("python3", "")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{command} "$@"\n')
        program.chmod(0o755)
    (tmp_path / "work").mkdir()
    with live_registry(tmp_path / "server", s3_config) as live:

        def run(script: str, **variables: str) -> str:
            environment = {
                "PATH": f"{tmp_path / 'bin'}:/usr/local/bin:/usr/bin:/bin",
                "HOME": str(tmp_path),
                "PYTHONPATH": str(ROOT),
                **variables,
            }
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script.replace("http://127.0.0.1:8080", live.url)],
                cwd=tmp_path / "work",
                env=environment,
                input=f"{TOKEN}\n",
                check=False,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        run.url = live.url  # type: ignore[attr-defined]
        yield run


@pytest.mark.slow
@pytest.mark.xdist_group("newcomer")
def test_the_five_minutes_of_the_readme(shell):
    walk = README.partition("## Five minutes")[2].partition("\n## ")[0]
    steps = [
        block if language == "sh" else f"python - <<'PYTHON'\n{block}PYTHON\n"
        for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", walk, re.MULTILINE | re.DOTALL)
    ]
    script = "\n".join(steps).replace(". .venv/bin/activate\n", "")
    said = shell(script)
    assert "vision/toy@production = vision/toy:1 (was 2)" in said
    assert "{'layer.7.weight': (512, 512)}" in said
    assert "2 False" in said


@pytest.mark.slow
@pytest.mark.xdist_group("newcomer")
def test_the_push_by_hand_of_the_api_page(shell):
    (script,) = blocks(PAGES["docs/api.md"], "sh")
    assert shell(script, REGISTRY_URL=shell.url, REGISTRY_TOKEN=TOKEN).split() == ["applied", "1"]


@pytest.mark.slow
@pytest.mark.xdist_group("newcomer")
def test_the_example_of_the_promotion_page(shell):
    example = PAGES["docs/promotion.md"].partition("## An example")[2].partition("\n## ")[0]
    script = "registry login http://127.0.0.1:8080 >/dev/null\n"
    for name in ("rita", "pat"):
        script += f"registry user create {name}\n{name.upper()}=$(registry token create t --user {name} | tail -n 1)\n"
    said = shell(script + "exec 2>&1\n" + "\n".join(blocks(example, "sh")))
    at = 0
    for line in "".join(blocks(example, "text")).splitlines():
        assert line in said[at:], (line, said)
        at = said.index(line, at)
