"""The shapes of a comparison of two versions."""

from typing import Annotated, Literal

from pydantic import Field

from registry.wire.base import Digest, Out, Page

DiffState = Literal["none", "pending", "done", "failed"]
TensorChange = Literal["identical", "changed", "added", "removed", "reshaped", "retyped", "renamed", "unknown"]


class TensorSide(Out):
    """A tensor as one of the versions has it. `digest` is null until a worker has read it."""

    path: str
    name: str
    dtype: str
    shape: list[int]
    size: int
    digest: Digest | None


class TensorDistance(Out):
    """How far b is from a, element by element.

    `relative_l2` is ‖b − a‖ / ‖a‖; it, `max_abs` and `cosine` are null where an element is not finite, or a is zero.
    """

    element_count: int
    equal_count: int
    max_abs: float | None
    relative_l2: float | None
    cosine: float | None

    @property
    def equal_share(self) -> float:
        """The share of elements that did not change."""
        return self.equal_count / self.element_count if self.element_count else 1.0


class TensorDiff(Out):
    """One tensor. `name` is qualified by its file (`ema.safetensors::w`) only where the name alone is ambiguous.

    `change` is `unknown` while a digest is. A renamed tensor goes by its new name; `a` has the old one. `distance` is
    there for changed and retyped tensors once it was measured.
    """

    name: str
    change: TensorChange
    a: TensorSide | None
    b: TensorSide | None
    distance: TensorDistance | None = None


class DiffCount(Out):
    """How many tensors, and their bytes in b (in a, where b has none)."""

    count: int
    size: int


class ModuleDiff(Out):
    """The tensors of one module, such as `model.layers.0`.

    `relative_l2` takes all floating-point tensors that have as many elements on both sides as one vector; it is null
    until all of them were measured.
    """

    name: str
    counts: dict[TensorChange, DiffCount]
    changed_size: int
    relative_l2: float | None = None


class ArtifactDiff(Out):
    """One file, by its path; a size and a digest are null where the file is not there."""

    path: str
    change: Literal["identical", "changed", "added", "removed"]
    a_size: int | None
    b_size: int | None
    a_digest: Digest | None
    b_digest: Digest | None


class MeasuringOut(Out):
    """How far a worker has come with measuring the changed tensors; `pending` as in a comparison."""

    a: str
    b: str
    pending: list[Literal["a", "b"]]
    statistics: DiffState
    statistics_done: int
    statistics_total: int


class DiffOut(Page[TensorDiff]):
    """What changed from version a to version b; the tensors come in pages, all else is on the first.

    `verdict`: `identical`, the same files; `same_weights`, other files with the same tensors; `different`; `unknown`
    while digests of the sides in `pending` are not known and no difference is. `statistics` is null unless asked for:
    `done` if everything that can be measured was; `none` if nobody has asked a worker to (POST does).
    """

    a: str
    b: str
    verdict: Literal["identical", "same_weights", "different", "unknown"]
    pending: list[Literal["a", "b"]]
    summary: dict[TensorChange, DiffCount]
    statistics: DiffState | None = None
    statistics_done: int = 0
    statistics_total: int = 0
    modules: Annotated[list[ModuleDiff] | None, Field(description="Null on later pages.")] = None
    artifacts: Annotated[list[ArtifactDiff] | None, Field(description="Null on later pages.")] = None
