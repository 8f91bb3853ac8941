"""What a benchmark found: one table, what must hold, and the same for programs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | float


@dataclass(frozen=True, slots=True)
class Target:
    """What must hold, and what was found."""

    name: str
    found: float
    limit: float
    at_least: bool

    def met(self) -> bool:
        """Whether it holds."""
        return self.found >= self.limit if self.at_least else self.found <= self.limit


@dataclass(slots=True)
class Report:
    """A table with a title and columns. Add rows, then what must hold, then notes."""

    title: str
    columns: Sequence[str]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def met(self) -> bool:
        """Whether every target holds."""
        return all(target.met() for target in self.targets)

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "title": self.title,
            "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows],
            "targets": [
                {"name": target.name, "found": round(target.found, 3), "limit": target.limit, "met": target.met()}
                for target in self.targets
            ],
            "notes": self.notes,
        }

    def table(self) -> str:
        """For people."""
        cells = [[_shown(cell) for cell in row] for row in (tuple(self.columns), *self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.columns))]
        lines = [self.title]
        for row in cells:
            named = row[0].ljust(widths[0])
            figures = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            lines.append("  ".join((named, *figures)).rstrip())
        longest = max((len(target.name) for target in self.targets), default=0)
        for target in self.targets:
            sign, verdict = "≥" if target.at_least else "≤", "met" if target.met() else "MISSED"
            lines.append(f"{target.name:{longest}}  {target.found:9.2f}  {sign} {target.limit:g}  {verdict}")
        return "\n".join([*lines, *self.notes])


def _shown(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:,.0f}" if cell == int(cell) or abs(cell) >= 1_000 else f"{cell:.2f}"
