"""The shapes of versions, their files, metrics and lineage."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from registry.wire.base import Digest, Finite, In, Message, Name, Out, Short, Size


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
    """A named array inside an artifact. From `digest` on null until a worker has read it.

    `digest` is that of the array's bytes. Minimum, maximum and norm are those of the finite elements. All but the
    digest stays null for dtypes that are not looked into, and complex numbers have no minimum and maximum.
    """

    name: str
    dtype: str
    shape: list[int]
    offset: int
    size: int
    digest: Digest | None = None
    nan_count: int | None = None
    inf_count: int | None = None
    zero_count: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    norm: float | None = None


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
