"""The shapes of models, aliases, stages and promotions."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from registry.wire.base import Direction, In, Message, Name, Number, Out, Short


class Objective(In):
    """Which metric makes `NAME@best`."""

    metric: Short
    direction: Direction
    dataset: Short | None = None
    split: Short | None = None


class ModelIn(In):
    """Create a model."""

    name: Name
    description: Message = ""
    objective: Objective | None = None


class ModelPatch(In):
    """Change what a model says of itself; fields left out stay."""

    description: Message | None = None
    objective: Objective | None = None


class StageHolder(Out):
    """A stage and who holds it."""

    stage: str
    version: int | None
    seq: int
    since: datetime | None
    by: str | None


class ModelOut(Out):
    """A model. `latest` is the highest ready release that is an original."""

    name: str
    description: str
    objective: Objective | None
    created_by: str
    created_at: datetime
    last_version: int
    latest: int | None
    stages: list[StageHolder]
    tags: dict[str, str]


class AliasIn(In):
    """Which version an alias means."""

    number: Number


class AliasOut(Out):
    """An alias."""

    alias: str
    number: int
    seq: int
    by: str
    at: datetime


class PromotionIn(In):
    """Move a stage to a version; null empties it. `expect` is the holder you saw, 0 for none."""

    version: Number | None
    expect: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    expect_seq: Annotated[int, Field(ge=0, le=2**62)] | None = None
    message: Message = ""


class RollbackIn(In):
    """Go back to an earlier holder: the one before, or version `to`."""

    to: Number | None = None
    expect: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    expect_seq: Annotated[int, Field(ge=0, le=2**62)] | None = None
    message: Message = ""


class PromotionOut(Out):
    """A promotion and what became of it."""

    id: str
    model: str
    stage: str
    kind: str
    state: str
    seq: int | None
    version: int | None
    previous: int | None
    by: str
    at: datetime
    message: str


class HistoryItem(Out):
    """One entry of a stage's history."""

    seq: int
    kind: str
    version: int | None
    previous: int | None
    by: str
    at: datetime
    message: str
    id: str
