"""`events`: what happened, and whether it was written down as it happened."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry.cli import _options, _output
from registry.domain.digest import format_digest
from registry.domain.errors import LocalError

if TYPE_CHECKING:
    from registry.wire import ChainHead, EventOut

Function = TypeVar("Function", bound=Callable[..., Any])

_NAMESPACE = click.argument("namespace", default="default")


class UnreadableDumpError(LocalError):
    """A file of events, or of the end of a chain, is not what `registry events --json` or `events head` wrote."""

    code = "DUMP_UNREADABLE"
    remedy = "Write it with 'registry events NAMESPACE --json' or 'registry events head NAMESPACE --json'."


class _Events(click.Group):
    """`registry events vision` is short for `registry events list vision`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put in the command that was left out."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def _listing(function: Function) -> Function:
    """The options of the list, which may be given without naming it."""
    for option in (
        click.option("--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C."),
        click.option("--action", metavar="ACTION", help="Only these, such as promotion:apply or 'promotion:*'."),
        click.option("--after", type=click.IntRange(0), default=0, metavar="SEQ", help="Only what came later."),
    ):
        function = option(function)
    return _options.limit(_options.as_json(function))


@click.group(
    "events",
    cls=_Events,
    subcommand_metavar="[NAMESPACE] | COMMAND [ARGS]...",
    epilog=(
        "\b\nExamples:\n  registry events vision\n  registry events vision --follow --action 'promotion:*'\n"
        "  registry events verify vision --head head.json"
    ),
)
@_listing
def events(**options: object) -> None:
    """Show what happened in a namespace, oldest first.

    Users and tokens have a chain of their own, `_system`. Without a command it is the list.
    """
    del options  # they are those of the list, which gets them


@events.command("list", epilog="\b\nExample:\n  registry events list vision --after 120 --json")
@_NAMESPACE
@_listing
def events_list(
    *, namespace: str, after: int, action: str | None, follow: bool, limit: int | None, as_json: bool
) -> None:
    """Show what happened in a namespace, oldest first."""
    with _options.connect() as client:
        found = client.events(namespace, limit=limit, after=after, action=action, follow=follow)
        if as_json:
            _output.stream(found)
            return
        rows = ((each.seq, each.at, each.actor, each.action, each.subject) for each in found)
        if follow:
            _output.lines(rows)
            return
        _output.table(("SEQ", "AT", "ACTOR", "ACTION", "SUBJECT"), list(rows), shrink=("SUBJECT",))


@events.command("head", epilog="\b\nExample:\n  registry events head vision --json > head.json")
@_NAMESPACE
@_options.as_json
def events_head(*, namespace: str, as_json: bool) -> None:
    """Show where a chain ends: its last number and hash.

    Kept elsewhere it shows later, with `verify --head`, that nothing was cut off.
    """
    with _options.connect() as client:
        head = client.chain_head(namespace)
    if as_json:
        _output.document(head)
    else:
        _output.result(f"{head.chain} {head.seq} {format_digest(head.hash)}")


@events.command(
    "verify",
    epilog=(
        "\b\nExamples:\n  registry events verify vision --head head.json\n"
        "  registry events vision --json > dump; registry events verify --file dump --head head.json"
    ),
)
@_NAMESPACE
@click.option(
    "--file",
    "dump",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="DUMP",
    help="Check what `events --json` wrote, without any server, instead of the registry's own.",
)
@click.option(
    "--head",
    "kept",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="HEAD",
    help="What `events head --json` wrote once: see that it is still there.",
)
def events_verify(*, namespace: str, dump: Path | None, kept: Path | None) -> None:
    """Check that nothing in a chain was altered, removed or put in.

    Names the first event that is not as it was written. That nothing was cut off the end shows only with a head that
    was kept elsewhere.
    """
    head = _head(kept) if kept is not None else None
    if dump is not None:
        from registry.client._events import verify_events

        reached = verify_events(_dumped(dump), head=head)
    else:
        with _options.connect() as client:
            reached = client.verify_chain(namespace, head=head)
    _output.result(f"{reached.seq} events of {reached.chain} verify, the last is {format_digest(reached.hash)}")


def _head(file: Path) -> "ChainHead":
    from pydantic import ValidationError

    from registry.wire import ChainHead

    try:
        return ChainHead.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        raise UnreadableDumpError(f"{file} is not the end of a chain.", path=str(file)) from None


def _dumped(file: Path) -> "Iterator[EventOut]":
    from pydantic import ValidationError

    from registry.wire import EventOut

    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield EventOut.model_validate(json.loads(line))
            except (ValueError, RecursionError, ValidationError):
                raise UnreadableDumpError(f"Line {number} of {file} is no event.", path=str(file)) from None
