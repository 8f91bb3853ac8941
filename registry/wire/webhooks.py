"""The shapes of webhooks and of what was sent to them."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from registry.wire.base import In, Message, Name, Out, Short

DeliveryState = Literal["pending", "delivered", "dead"]
Url = Annotated[str, Field(min_length=1, max_length=2048)]
Actions = Annotated[list[Short], Field(max_length=100)]


class WebhookIn(In):
    """Have the events of a namespace, or of one model, sent to a URL; no actions means all of them."""

    url: Url
    namespace: Name | None = None
    model: Name | None = None
    actions: Actions = []
    description: Message = ""

    @model_validator(mode="after")
    def _of_one(self) -> Self:
        if (self.namespace is None) == (self.model is None):
            raise ValueError("a webhook is of a namespace or of a model")
        return self


class WebhookPatch(In):
    """Change a webhook; fields left out stay. What is pending for one that is disabled dies."""

    url: Url | None = None
    actions: Actions | None = None
    description: Message | None = None
    enabled: bool | None = None


class WebhookOut(Out):
    """A webhook without its secret. `old_secret_until`: messages are signed with an older secret too until then."""

    id: str
    namespace: str
    model: str | None
    url: str
    actions: list[str]
    description: str
    enabled: bool
    by: str
    created_at: datetime
    old_secret_until: datetime | None
    pending: int
    dead: int


class NewWebhookOut(WebhookOut):
    """A webhook whose secret is new: the only time it is shown."""

    secret: Annotated[str, Field(repr=False)]


class RotateIn(In):
    """For how long messages are signed with the old secret too; 0 ends it at once."""

    overlap_s: Annotated[int, Field(ge=0, le=7 * 86_400)] = 86_400


class ReplayIn(In):
    """Which delivery to send again; null for all that are dead."""

    delivery: Short | None = None


class ReplayOut(Out):
    """How many deliveries are sent again."""

    replayed: int


class AttemptOut(Out):
    """One request of a delivery: a status, or an error where there was none."""

    attempt: int
    at: datetime
    status: int | None
    status_class: str | None
    latency_ms: int
    error: str | None


class DeliveryOut(Out):
    """An event on its way to a webhook. `id` is the message's `webhook-id`."""

    id: str
    chain: str
    seq: int
    action: str
    subject: str
    state: DeliveryState
    created_at: datetime
    next_attempt_at: datetime | None
    ended_at: datetime | None
    attempts: list[AttemptOut]
