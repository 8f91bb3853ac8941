"""What holds for every command: help, exit codes, where what is written, how it looks."""

import json
import os
import pty
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from fcntl import ioctl
from termios import TIOCSWINSZ

import click
import pytest

from registry.cli import _output
from registry.cli import registry as root
from registry.domain.errors import RegistryError
from tests.cli.conftest import write
from tests.support import ROOT
from tests.support.live import TOKEN


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


EVERY = list(commands(root))
READS = (
    "list", "versions", "show", "resolve", "lineage", "metrics", "history", "promotions", "stages", "policy", "whoami",
    "storage", "events", "pull",
)  # fmt: skip
READS_BELOW = [("alias", "list"), ("namespace", "list"), ("namespace", "grants"), ("user", "list"), ("token", "list")]


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[" ".join(path) for path, _ in EVERY])
def test_the_help_of_every_command_has_an_example_that_names_it(path, command, typed):
    done = typed(f"{' '.join(path)} --help")
    example = re.search(r"Examples?:\n\s+registry (.*)", done.out)
    assert example is not None
    assert example[1].split()[: len(path)] == list(path)
    assert done.err == ""


@pytest.mark.parametrize("path", [*((name,) for name in READS), *READS_BELOW], ids=" ".join)
def test_every_command_that_reads_has_json(path):
    command = dict(EVERY)[path]
    assert "--json" in [option for parameter in command.params for option in parameter.opts]


def test_the_contract_s_commands_are_there():
    named = {path[0] for path, _ in EVERY}
    assert named >= {
        "serve", "api", "worker", "db", "push", "pull", "resolve", "show", "list", "versions", "lineage", "promote",
        "rollback", "demote", "history", "copy", "alias", "tag", "metrics", "delete", "restore", "login", "logout",
        "whoami", "namespace", "token", "user", "events", "cache", "storage", "follow",
    }  # fmt: skip


@pytest.mark.parametrize(
    "line", ["nonsense", "push", "promote yolo", "pull yolo --depth 3", "history yolo", "api --port x"]
)
def test_a_mistake_in_the_command_is_one_line_and_exit_code_2(line, typed):
    done = typed(line, code=2)
    assert done.out == ""
    assert re.fullmatch(r"error: .*\. See 'registry.* --help'\. \[USAGE\]\n", done.err)


def test_a_refusal_is_one_line_with_its_remedy_and_code_and_exit_code_1(registry, name):
    done = registry("show {name}", name=name, code=1)
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert re.fullmatch(rf"error: There is no model {name}\. .+ \[MODEL_NOT_FOUND\]\n", done.err)


def test_without_a_registry_the_way_to_one_is_told(typed):
    done = typed("list", code=1)
    assert "registry login" in done.err
    assert "[SERVER_UNKNOWN]" in done.err


def test_an_error_s_text_cannot_break_out_of_its_line(capsys):
    _output.failure(RegistryError("two\nlines and \x1b[31mred", remedy="Do\r\nthis."))
    assert capsys.readouterr().err == "error: two lines and �[31mred. Do this. [REGISTRY_ERROR]\n"


def test_results_go_to_stdout_and_the_rest_to_stderr(registry, name, alone):
    done = registry("push {name} {file}", name=name, file=write(alone / "m.safetensors"))
    assert done.out == f"{name}:1\n"
    assert "sent" in done.err


def test_json_is_one_document(registry, name, alone):
    pushed = registry("push {name} {file} --json", name=name, file=write(alone / "m.safetensors"))
    assert json.loads(pushed.out)["number"] == 1
    assert [each["number"] for each in json.loads(registry("versions {name} --json", name=name).out)] == [1]
    assert json.loads(registry("show {name} --json", name=name).out)["artifacts"][0]["path"] == "m.safetensors"


def test_a_stream_is_one_document_a_line(registry, name, alone):
    registry("push {name} {file}", name=name, file=write(alone / "m.safetensors"))
    events = [json.loads(line) for line in registry("events --json").lines]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_an_empty_list_is_a_header_or_an_empty_json_list(registry, name, alone):
    registry("push {name} {file}", name=name, file=write(alone / "m.safetensors"))
    assert len(registry("alias list {name}", name=name).lines) == 1
    assert registry("alias list {name} --json", name=name).out == "[]\n"


def test_a_pipe_gets_no_colour_no_bar_and_nothing_cut(registry, name, alone):
    message = "a message that is far too long for a terminal of eighty columns, but not for a pipe that leads to a file"
    done = registry("push {name} {file} -m {message}", name=name, file=write(alone / "m.safetensors"), message=message)
    assert "\x1b" not in done.err
    table = registry("versions {name}", name=name)
    assert "\x1b" not in table.out
    assert message in table.out
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", table.out)


def test_a_terminal_gets_a_table_that_fits_and_a_bar(live, alone, registry, name):
    message = "a message that is far too long for a terminal of eighty columns, so that it has to be cut somewhere"
    registry("push {name} {file} -m {message}", name=name, file=write(alone / "m.safetensors"), message=message)
    shown = on_a_terminal("versions", name)
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "…" in shown
    assert "fetching" in on_a_terminal("pull", name)


def test_the_version_is_printed(typed):
    assert re.fullmatch(r"registry \d+\.\d+\.\d+\n", typed("--version").out)


def test_a_reader_that_goes_away_is_no_traceback(live, registry, name, alone):
    registry("push {name} {file}", name=name, file=write(alone / "m.safetensors"))
    command = f"{sys.executable} -m registry events --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["seq"] == 1
    assert "Traceback" not in done.stderr


def test_the_token_is_never_shown(registry, name, alone):
    done = registry("push {name} {file}", name=name, file=write(alone / "m.safetensors"))
    assert TOKEN not in done.out + done.err + registry("whoami").out


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (90_868_376, "90.9 MB"),
        (140 * 10**9, "140 GB"),
        (10**18, "1000 PB"),
    ],
)
def test_sizes_are_short(count, text):
    assert _output.size(count) == text


def on_a_terminal(*arguments: str) -> str:
    """What a person would see on 80 columns, without the colours."""
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover
        ioctl(0, TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "registry", *arguments])
    seen = b""
    try:
        while data := os.read(terminal, 65_536):
            seen += data
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, seen
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode()).replace("\r\n", "\n")
