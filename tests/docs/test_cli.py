import re

import click
import pytest

from docs.build import HERE, commands

PAGE = (HERE / "cli.md").read_text(encoding="utf-8")
COMMANDS = dict(commands())


def test_every_command_has_a_section_and_every_section_is_a_command():
    assert re.findall(r"^## (registry.*)$", PAGE, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("path", [path for path in COMMANDS if path != "registry"])
def test_help_has_an_example_of_the_command_itself(path):
    said = COMMANDS[path].get_help()
    _, found, examples = said.partition("Example")
    assert found
    assert f"  {path} " in f"{examples} ".replace("\n", " \n")


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_says_what_it_is_for(path):
    options = [each for each in COMMANDS[path].command.params if isinstance(each, click.Option)]
    assert [option.name for option in options if not option.help] == []
