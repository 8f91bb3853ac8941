"""What commands have in common: how they are declared, their shared options, and the client they use."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from registry.client import Client

Function = TypeVar("Function", bound=Callable[..., Any])


def command(name: str, *examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A command; its help ends with the examples."""
    return click.command(name, epilog=_epilog(examples), no_args_is_help=False)


def group(name: str, *examples: str) -> Callable[[Callable[..., Any]], click.Group]:
    """A command that has commands of its own."""
    return click.group(name, epilog=_epilog(examples))


def as_json(function: Function) -> Function:
    """The option every reading command has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def limit(function: Function) -> Function:
    """The option of long lists."""
    return click.option("-n", "--limit", type=click.IntRange(1), help="Print at most so many.")(function)


def message(function: Function) -> Function:
    """The option of what is written into a history."""
    return click.option("-m", "--message", default="", help="Why, for whoever reads the history.")(function)


class Moment(click.ParamType[datetime]):
    """A time as people and programs write it: RFC 3339, or a date, which begins here at midnight."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The time, with its zone. Raises BadParameter."""
        try:
            return datetime.fromisoformat(str(value)).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{str(value)!r} is no time such as 2026-11-24 or 2026-11-24T08:00:00Z", param, ctx)


def since(function: Function) -> Function:
    """The option of where a time begins."""
    return click.option("--since", type=Moment(), metavar="TIME", help="What was decided after this time.")(function)


def until(function: Function) -> Function:
    """The option of where it ends."""
    return click.option("--until", type=Moment(), metavar="TIME", help="… and until this one; now if left out.")(
        function
    )


def connect() -> "Client":
    """The client for this command: REGISTRY_URL and REGISTRY_TOKEN, else what `registry login` kept."""
    import registry

    return registry.connect()


def _epilog(examples: tuple[str, ...]) -> str:
    lines = "\n".join(f"  {example}" for example in examples)
    return f"\b\n{'Example' if len(examples) == 1 else 'Examples'}:\n{lines}"
