"""The shapes of models, aliases and stages."""

from datetime import datetime

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
    """A stage and who holds it. `consumers` is how many that follow it run which version; null if not counted."""

    stage: str
    version: int | None
    seq: int
    since: datetime | None
    by: str | None
    consumers: dict[str, int] | None = None


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
