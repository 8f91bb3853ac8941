"""What every shape is made of: bounded texts and numbers, the two kinds of shapes, a page, a problem."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

SEGMENT_BATCH = 1_000
"""Segments that one request may ask about or report."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=250)]
Message = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[int, Field(ge=0, le=2**50)]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
Direction = Literal["max", "min"]
Params = Annotated[dict[Short, Any], Field(max_length=2_000)]


Item = TypeVar("Item")


class In(BaseModel):
    """What a request may say."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Out(BaseModel):
    """What an answer says. A newer server may say more than this client knows."""

    model_config = ConfigDict(extra="ignore", from_attributes=True)


class Page(Out, Generic[Item]):
    """One page of a list. `next` is an opaque cursor, null on the last page."""

    items: list[Item]
    next: str | None = None


class Problem(Out):
    """RFC 9457, with our stable code."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    remedy: str = ""
    request_id: str = ""
