"""Evidence: what is known of two versions when a promotion is decided, and which of their metrics can be compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

ANY_DATASET: Final = "any"


@dataclass(frozen=True, slots=True)
class Measured:
    """The newest value of a metric on one dataset, split and slice."""

    name: str
    value: float
    at: datetime
    dataset: str | None = None
    dataset_digest: str | None = None
    split: str | None = None
    slice: str | None = None

    @property
    def data(self) -> tuple[str | None, str | None, str | None]:
        """On what it was measured: two values can be compared if this is equal."""
        return self.dataset, self.dataset_digest, self.split


@dataclass(frozen=True, slots=True)
class File:
    """What is known of an artifact."""

    path: str
    format: str
    pickle: bool


@dataclass(frozen=True, slots=True)
class Elements:
    """What a look at every element of a version has found."""

    nan_count: int
    inf_count: int
    zero_tensors: Sequence[str]
    nan_tensors: Sequence[str] = ()
    tensor_count: int = 0


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What is known of a version. What no gate needs is left at its default."""

    number: int
    integrity: str
    health: str
    class_names: Sequence[str] = ()
    metrics: Sequence[Measured] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[File] = ()
    elements: Elements | None = None
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Dtype and shape by name."""
    rootless: Sequence[str] = ()
    """Ancestors, or the version itself, that name no parent: where its story begins without saying from what."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a promotion is decided on: the candidate, who holds the stage now, and the time."""

    candidate: VersionFacts
    incumbent: VersionFacts | None
    now: datetime


def measured(version: VersionFacts, given: Mapping[str, Any]) -> list[Measured]:
    """The metrics that a gate's `metric`, `dataset`, `split` and `slice` mean; only those of no slice if none is named.

    A dataset is `NAME` or `NAME=sha256:<hex>`.
    """
    name, _, digest = given.get("dataset", "").partition("=")
    return [
        each
        for each in version.metrics
        if given.get("metric") in (None, each.name)
        and (name in ("", ANY_DATASET) or each.dataset == name)
        and digest in ("", each.dataset_digest)
        and given.get("split") in (None, each.split)
        and each.slice == given.get("slice")
    ]


def comparable(ours: VersionFacts, theirs: VersionFacts, given: Mapping[str, Any]) -> list[tuple[Measured, Measured]]:
    """Pairs of one metric of two versions that were measured on the same data.

    Where neither names a dataset, nothing says that the data was the same: then only `"dataset": "any"` compares.
    """
    mine, other = measured(ours, given), measured(theirs, given)
    if given.get("dataset") == ANY_DATASET:
        newest = [max(each, key=lambda found: found.at) for each in (mine, other) if each]
        return [(newest[0], newest[1])] if len(newest) == 2 else []
    held = {each.data: each for each in other}
    return [(each, held[each.data]) for each in mine if each.dataset is not None and each.data in held]


def advantage(ours: float, theirs: float, direction: str) -> float:
    """How much better the first value is; negative if it is worse, and if either is not a number."""
    delta = ours - theirs if direction == "max" else theirs - ours
    return -math.inf if math.isnan(delta) else delta
