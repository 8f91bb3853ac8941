"""The JSON shapes of `/api/v1`, shared by server and client. Inputs refuse unknown fields; outputs tolerate them.

Digests are `sha256:<64 hex>`, times are RFC 3339 in UTC, sizes and offsets are bytes.
"""

from datetime import datetime
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


class SegmentIn(In):
    """A segment a push needs, by the digest of its bytes."""

    digest: Digest
    size: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)]


class UploadIn(In):
    """Begin a push to a model; the first batch of segments may come along."""

    model: Name
    segments: Annotated[list[SegmentIn], Field(max_length=SEGMENT_BATCH)] = []


class SegmentsIn(In):
    """Ask which segments are missing."""

    segments: Annotated[list[SegmentIn], Field(max_length=SEGMENT_BATCH)]


class SegmentAnswer(Out):
    """`have`: nothing to send. `upload`: PUT the bytes to `url` with exactly these headers."""

    digest: Digest
    status: Literal["have", "upload"]
    url: str | None = None
    headers: dict[str, str] = {}


class SegmentAnswers(Out):
    """One answer for each segment asked about, in the same order."""

    items: list[SegmentAnswer]


class UploadOut(SegmentAnswers):
    """An open push. `items` answers the segments that came with the request."""

    id: str
    model: str
    state: Literal["open", "committed", "expired"]
    expires_at: datetime
    items: list[SegmentAnswer] = []


class FinishedIn(In):
    """Segments whose bytes the store has accepted."""

    digests: Annotated[list[Digest], Field(max_length=SEGMENT_BATCH)]


class FinishedOut(Out):
    """How many of the reported segments the server has seen whole in the store."""

    present: int


class ArtifactIn(In):
    """A file of the version: its digest, and the segments it consists of, in order."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    size: Size
    digest: Digest
    segments: Annotated[list[SegmentIn], Field(max_length=300_000)]


class MetricIn(In):
    """A number measured on a version."""

    name: Short
    value: Finite
    step: Annotated[int, Field(ge=-(2**62), le=2**62)] | None = None
    dataset: Short | None = None
    dataset_digest: Digest | None = None
    split: Short | None = None
    slice: Short | None = None
    evaluator: Short | None = None
    sample_count: Size | None = None


class CommitIn(In):
    """Publish the upload as a version."""

    artifacts: Annotated[list[ArtifactIn], Field(min_length=1, max_length=10_000)]
    kind: Literal["release", "checkpoint"] = "release"
    variant: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] | None = None
    message: Message = ""
    params: Params = {}
    class_names: Annotated[list[Annotated[str, StringConstraints(max_length=250)]], Field(max_length=100_000)] = []
    run: Short | None = None
    parents: Annotated[list[Annotated[str, StringConstraints(max_length=2048)]], Field(max_length=100)] = []
    metrics: Annotated[list[MetricIn], Field(max_length=10_000)] = []
    tags: Annotated[dict[Short, Message], Field(max_length=200)] = {}
    aliases: Annotated[list[Short], Field(max_length=50)] = []
    new: bool = False


class MetricOut(Out):
    """A recorded metric."""

    name: str
    value: float
    step: int | None
    dataset: str | None
    dataset_digest: Digest | None
    split: str | None
    slice: str | None
    evaluator: str | None
    sample_count: int | None
    recorded_by: str
    recorded_at: datetime


class ArtifactOut(Out):
    """One file of a version."""

    path: str
    size: int
    digest: Digest
    media_type: str
    format: str
    pickle: bool
    tensor_count: int
    segment_count: int


class SegmentOut(Out):
    """Where a segment stands in its artifact; `url` reads its bytes from the store until `REGISTRY_URL_TTL` passes."""

    position: int
    offset: int
    size: int
    digest: Digest
    url: str | None = None


class TensorOut(Out):
    """A named array inside an artifact."""

    name: str
    dtype: str
    shape: list[int]
    offset: int
    size: int


class ParentOut(Out):
    """A lineage edge: a version of this registry by `ref` (null if the actor may not read it), or a `uri`."""

    relation: str
    ref: str | None = None
    uri: str | None = None


class VersionItem(Out):
    """A version in a list. `metrics` holds the newest value of each name measured without a slice."""

    model: str
    number: int
    digest: Digest
    kind: Literal["release", "checkpoint"]
    variant: str | None
    state: Literal["ready", "trashed", "purged"]
    integrity: Literal["unverified", "verified", "damaged"]
    health: Literal["pending", "done", "failed"]
    message: str
    size: int
    created_by: str
    created_at: datetime
    run: str | None
    metrics: dict[str, float]
    parents: list[ParentOut]
    aliases: list[str]
    stages: list[str]


class VersionOut(VersionItem):
    """A version whole. `created` is false when a push found it already there."""

    params: dict[str, Any]
    class_names: list[str]
    tags: dict[str, str]
    artifacts: list[ArtifactOut]
    created: bool | None = None


class VersionPatch(In):
    """What may change on a published version: its description."""

    message: Message


class ResolveOut(Out):
    """What a reference means now."""

    model: str
    number: int
    digest: Digest
    ref: str


class CopyIn(In):
    """Copy a version to another model, which is created if it is new."""

    to: Name
    message: Message | None = None


class TagIn(In):
    """A tag's value."""

    value: Message


class MetricsIn(In):
    """Metrics to add."""

    metrics: Annotated[list[MetricIn], Field(min_length=1, max_length=10_000)]


class CountOut(Out):
    """How many rows were added."""

    added: int


class LineageItem(Out):
    """One edge met while walking from a version; `depth` is 1 for its own parents or children."""

    depth: int
    relation: str
    child: str | None
    parent: str | None
    uri: str | None = None


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
    """What versions add up to, and what the store holds for them."""

    logical_bytes: int
    stored_bytes: int
    objects: int
    segments: int


class Problem(Out):
    """RFC 9457, with our stable code."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    remedy: str = ""
    request_id: str = ""
