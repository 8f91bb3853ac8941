"""The shapes of a push."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.wire.base import SEGMENT_BATCH, Digest, In, Message, Name, Out, Params, Short, Size
from registry.wire.versions import MetricIn


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
