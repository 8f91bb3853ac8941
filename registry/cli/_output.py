"""How the command line speaks: results to stdout, everything else to stderr, colour and bars only on a terminal."""

import json
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from shutil import get_terminal_size
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.progress import Progress, TaskID

    from registry.domain.errors import RegistryError

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_THOUSAND = 1000
_NARROWEST = 8
_PHASES = {"hash": "hashing", "send": "sending", "fetch": "fetching"}


def say(text: str) -> None:
    """One line for people, on stderr."""
    click.echo(clean(text), err=True)


def result(text: str) -> None:
    """One line of the result, on stdout."""
    click.echo(clean(text))


def document(value: "BaseModel | Mapping[str, Any]") -> None:
    """The result as one JSON document."""
    click.echo(json.dumps(_plain(value), ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def documents(values: "Iterable[BaseModel]") -> None:
    """The result as one JSON list."""
    found = [_plain(value) for value in values]
    click.echo(json.dumps(found, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def stream(values: "Iterable[BaseModel]") -> None:
    """The result as one JSON document a line, each as soon as it is there."""
    for value in values:
        click.echo(json.dumps(_plain(value), ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, shrink: Sequence[str] = ()) -> None:
    """Aligned columns, numbers at the right. In a pipe nothing is left out or cut.

    On a terminal empty columns are left out, and the columns `shrink` give way, in that order, so that a row fits.
    """
    lines = [tuple(columns), *(tuple(clean(_cell(value)) for value in row) for row in rows)]
    if sys.stdout.isatty() and len(lines) > 1:
        filled = [index for index in range(len(columns)) if any(line[index] for line in lines[1:])]
        lines = [tuple(line[index] for index in filled) for line in lines]
    across = list(zip(*lines, strict=True))
    at_right = [len(cells) > 1 and all(map(_is_number, cells[1:])) for cells in across]
    widths = [max(map(_width, cells)) for cells in across]
    if sys.stdout.isatty():
        _fit(widths, [lines[0].index(name) for name in shrink if name in lines[0]])
    click.secho(_line(lines[0], widths, at_right), bold=True)
    for line in lines[1:]:
        click.echo(_line(line, widths, at_right))


def lines(rows: Iterable[Sequence[object]]) -> None:
    """Rows of a table that has no end, each as soon as it is there."""
    for row in rows:
        click.echo("  ".join(clean(_cell(value)) for value in row).rstrip())


def fields(pairs: Mapping[str, object]) -> None:
    """Names and values, one a line; what is empty is left out."""
    shown = {name: _cell(value) for name, value in pairs.items() if value not in (None, "", [], ())}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        for index, line in enumerate(value.splitlines() or [""]):
            click.echo(f"{click.style(('' if index else name).ljust(width), dim=True)}  {clean(line)}")


def failure(error: "RegistryError") -> None:
    """An error as one line: what is wrong, what to do about it, its code."""
    sentence = " ".join(str(error).split()).rstrip(".")
    remedy = " ".join(error.remedy.split())
    click.echo(clean(f"error: {sentence}. {remedy}".rstrip() + f" [{error.code}]"), err=True)


def size(count: int) -> str:
    """Bytes as people say them: 90.9 MB."""
    value = float(count)
    for unit in _UNITS:
        if value < _THOUSAND or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= _THOUSAND
    raise AssertionError


def when(at: datetime | None) -> str:
    """A time: local and short on a terminal, exact and in UTC in a pipe."""
    if at is None:
        return ""
    if sys.stdout.isatty():
        return f"{at.astimezone():%Y-%m-%d %H:%M}"
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def number(value: float) -> str:
    """A metric's value, short."""
    return f"{value:.6g}"


def first_line(text: str) -> str:
    """A message in a table."""
    return text.strip().partition("\n")[0]


def clean(text: str) -> str:
    """Text from elsewhere without what would steer the terminal."""
    if text.isprintable():
        return text
    return "".join("�" if unicodedata.category(each) in ("Cc", "Cf", "Cs") else each for each in text)


class Bars:
    """A progress bar for each phase of a transfer, on a terminal; nothing anywhere else. Call it with a progress."""

    def __init__(self) -> None:
        """Nothing is shown yet."""
        self.moved = self.total = 0
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Show bars if somebody is looking."""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.progress import TransferSpeedColumn as Speed

            name = TextColumn("{task.description}")
            columns = (name, BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take note of a step."""
        if phase == "moved":
            self.moved, self.total = done, total
            return
        if phase == "wait":
            say("waiting for another process that pulls into the same directory")
            return
        if self._bars is None:
            return
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(_PHASES.get(phase, phase), total=total)
        self._bars.update(self._tasks[phase], completed=done, total=total)


def _plain(value: "BaseModel | Mapping[str, Any]") -> Any:
    return dict(value) if isinstance(value, Mapping) else value.model_dump(mode="json")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _is_number(text: str) -> bool:
    return not text or text.replace(".", "").replace(",", "").partition(" ")[0].isdigit()


def _width(text: str) -> int:
    return sum(_columns(each) for each in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _fit(widths: list[int], flexible: Sequence[int]) -> None:
    """Narrow the flexible columns until a row fits into the terminal, or none can give more."""
    excess = sum(widths) + 2 * (len(widths) - 1) - get_terminal_size().columns
    for index in flexible:
        given = max(0, min(excess, widths[index] - _NARROWEST))
        widths[index] -= given
        excess -= given


def _line(cells: Sequence[str], widths: Sequence[int], at_right: Sequence[bool]) -> str:
    parts = [_fitted(cell, width, at_right=right) for cell, width, right in zip(cells, widths, at_right, strict=True)]
    return "  ".join(parts).rstrip()


def _fitted(text: str, width: int, *, at_right: bool) -> str:
    if _width(text) > width:
        while _width(text) >= width:
            text = text[:-1]
        text += "…"
    gap = " " * (width - _width(text))
    return gap + text if at_right else text + gap
