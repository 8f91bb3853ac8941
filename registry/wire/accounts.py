"""The shapes of people, tokens, namespaces, events and storage."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from registry.wire.base import In, Message, Name, Out, Short

Role = Literal["reader", "writer", "promoter", "admin"]


class NamespaceIn(In):
    """Create a namespace."""

    name: Name
    description: Message = ""


class NamespaceOut(Out):
    """A namespace and the asking actor's role in it."""

    name: str
    description: str
    created_at: datetime
    role: Role | None


class GrantIn(In):
    """A role to give."""

    role: Role


class GrantOut(Out):
    """A user's role in a namespace."""

    user: str
    role: Role


class UserIn(In):
    """Create a user."""

    name: Name
    admin: bool = False


class UserPatch(In):
    """Disable or enable a user, or change the administrator flag; fields left out stay."""

    disabled: bool | None = None
    admin: bool | None = None


class UserOut(Out):
    """A user."""

    name: str
    admin: bool
    disabled: bool
    created_at: datetime


class TokenIn(In):
    """Create a token: what it may do (`*`, `read`, or permissions such as `version:*`), on which models (a glob)."""

    name: Name
    actions: Annotated[list[Short], Field(min_length=1, max_length=50)] = ["*"]
    models: Short = "*"
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = None
    user: Name | None = None


class TokenOut(Out):
    """A token without its secret."""

    id: int
    name: str
    user: str
    prefix: str
    actions: list[str]
    models: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class NewTokenOut(TokenOut):
    """A token just made: the only time its secret is shown."""

    token: str


class WhoAmI(Out):
    """The asking actor."""

    user: str
    admin: bool
    token: str
    actions: list[str]
    models: str
    expires_at: datetime | None


class EventOut(Out):
    """A fact of the audit chain."""

    chain: str
    seq: int
    actor: str
    action: str
    subject: str
    at: datetime
    detail: dict[str, Any]
    previous_hash: str
    hash: str


class StorageOut(Out):
    """What versions add up to, and what the store holds for them: segments, each once, and beside them whole files.

    Files of several segments are also kept whole while a version that has them is on a stage.
    """

    logical_bytes: int
    stored_bytes: int
    objects: int
    segments: int
    whole_bytes: int = 0
    whole_objects: int = 0
