"""What each view says of itself, for the OpenAPI document: one decorator, no flow hidden in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

View = TypeVar("View", bound=Callable[..., Any])

Answer = type[BaseModel] | str | None
"""A shape in JSON, a media type of bytes, or no body."""

EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query or a header, and its JSON schema."""

    name: str
    meaning: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = False
    place: Literal["query", "header"] = "query"


@dataclass(frozen=True, slots=True)
class Operation:
    """Summary, answers by status, body and parameters of a view.

    `refuses` are statuses that cannot be read off the route: see `openapi.refusals` for those that can. `streams` says
    that with `Accept: text/event-stream` the answer is a stream instead.
    """

    summary: str
    answers: Mapping[int, Answer]
    body: type[BaseModel] | None = None
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    refuses: tuple[int, ...] = ()
    streams: bool = False


LIMIT = Parameter("limit", "Items a page may hold.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50})
CURSOR = Parameter("cursor", "`next` of the page before.")
PAGED = (LIMIT, CURSOR)
IF_MATCH = Parameter("If-Match", "Refuse unless this is still the `ETag`.", place="header")
RANGE = Parameter("Range", "One range of bytes, such as `bytes=0-99`.", place="header")


def operation(
    summary: str,
    *,
    answers: Mapping[int, Answer],
    body: type[BaseModel] | None = None,
    query: tuple[Parameter, ...] = (),
    headers: tuple[Parameter, ...] = (),
    refuses: tuple[int, ...] = (),
    streams: bool = False,
) -> Callable[[View], View]:
    """Describe the view under this decorator."""

    def decorate(view: View) -> View:
        view.operation = Operation(summary, answers, body, query, headers, refuses, streams)  # type: ignore[attr-defined]
        return view

    return decorate
