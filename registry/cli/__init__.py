"""The command `registry`: a thin layer over the library. One module a group of commands."""

import sys
from collections.abc import Sequence

import click

from registry import __version__
from registry.cli import (
    _accounts,
    _annotations,
    _diff,
    _events,
    _follow,
    _operations,
    _output,
    _policies,
    _server,
    _stages,
    _versions,
    _webhooks,
    _weights,
)
from registry.domain.errors import RegistryError

_SECTIONS = {
    "Weights": (_weights.push, _weights.pull, _follow.follow, _weights.copy),
    "Versions": (
        _versions.list_,
        _versions.versions,
        _versions.show,
        _versions.resolve,
        _versions.lineage,
        _diff.diff,
        _versions.delete,
        _versions.restore,
        _annotations.metrics,
        _annotations.alias,
        _annotations.tag,
    ),
    "Stages": (
        _stages.promote,
        _stages.rollback,
        _stages.demote,
        _stages.history,
        _stages.promotions,
        _stages.approve,
        _stages.reject,
        _stages.cancel,
        _policies.stages,
        _policies.policy,
    ),
    "Access": (
        _accounts.login,
        _accounts.logout,
        _accounts.whoami,
        _accounts.namespace,
        _accounts.user,
        _accounts.token,
    ),
    "Operations": (_operations.storage, _events.events, _webhooks.webhook, _operations.cache),
    "Server": (_server.serve, _server.api, _server.worker, _server.db),
}


class _Registry(click.Group):
    """Lists its commands by topic."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section a topic."""
        del ctx
        width = max(len(command.name or "") for commands in _SECTIONS.values() for command in commands)
        for title, commands in _SECTIONS.items():
            rows = [((each.name or "").ljust(width), each.get_short_help_str(66)) for each in commands]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(
    cls=_Registry,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="A reference is NAME, NAME:7, NAME@production or NAME@sha256:…, where NAME is namespace/model.",
)
@click.version_option(__version__, prog_name="registry", message="%(prog)s %(version)s")
def registry() -> None:
    """Version, compare, promote and deliver model weights."""


for _commands in _SECTIONS.values():
    for _command in _commands:
        registry.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit: 0 done, 1 refused or failed, 2 usage."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and give its exit code. One line on stderr says what went wrong."""
    try:
        code = registry.main(list(arguments), prog_name="registry", standalone_mode=False)
    except RegistryError as error:
        _output.failure(error)
        return 1
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "registry"
        sentence = error.format_message().rstrip(".")
        click.echo(f"error: {sentence}. See '{where} --help'. [USAGE]", err=True)
        return 2
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()} [FAILED]", err=True)
        return 1
    except click.Abort:
        click.echo("Interrupted.", err=True)
        return 130
    return code if isinstance(code, int) else 0
