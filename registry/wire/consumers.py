"""The shapes of consumers: who runs what."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.wire.base import In, Message, Name, Number, Out

ConsumerState = Literal["pulling", "running", "failed"]
_Seq = Annotated[int, Field(ge=0, le=2**62)]


class ConsumerReport(In):
    """What a consumer runs: a version, and the seq by which it learned of it; null before the first."""

    number: Number | None = None
    seq: _Seq | None = None
    state: ConsumerState = "running"
    detail: Message = ""


class ConsumerIn(ConsumerReport):
    """A consumer that begins to follow a reference of the model. `name` says which process where."""

    name: Name
    follows: Annotated[str, StringConstraints(min_length=1, max_length=512)]


class ConsumerOut(Out):
    """A consumer as it last said. It is forgotten at `expires_at` unless it says more within `lease_s`."""

    id: str
    model: str
    name: str
    follows: str
    number: int | None
    seq: int | None
    state: ConsumerState
    detail: str
    by: str
    started_at: datetime
    seen_at: datetime
    expires_at: datetime
    lease_s: int
