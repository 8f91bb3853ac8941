"""What each view says of itself, for the OpenAPI document: one decorator, no flow hidden in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter and its JSON schema."""

    name: str
    meaning: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """Summary, shapes and parameters of a view. `answers` maps a status to its shape; None is an empty body."""

    summary: str
    answers: Mapping[int, type[BaseModel] | str | None]
    body: type[BaseModel] | None = None
    query: tuple[Parameter, ...] = ()


LIMIT = Parameter("limit", "Items a page may hold.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50})
CURSOR = Parameter("cursor", "`next` of the page before.")
PAGED = (LIMIT, CURSOR)


def operation(
    summary: str,
    *,
    answers: Mapping[int, type[BaseModel] | str | None],
    body: type[BaseModel] | None = None,
    query: tuple[Parameter, ...] = (),
) -> Callable[[View], View]:
    """Describe the view under this decorator."""

    def decorate(view: View) -> View:
        view.operation = Operation(summary, answers, body, query)  # type: ignore[attr-defined]
        return view

    return decorate
