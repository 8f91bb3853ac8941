"""What changed between two versions, tensor by tensor, told from names, dtypes, shapes and digests alone.

A tensor is known by its name. A version may hold several files with tensors: where they have a tensor of one name with
the same content (`model.pt` beside `model.safetensors`), it is one tensor; where the contents differ, in either
version, that name is qualified by its file in both (`ema.safetensors::head.weight`).

    identical  same name, dtype, shape and bytes          added     only in b
    changed    same name, dtype and shape, other bytes    removed   only in a
    retyped    same name and shape, other dtype           renamed   only in a under one name, only in b under another,
    reshaped   same name, other shape (or both)                     with the same bytes, dtype and shape
    unknown    same name, dtype and shape; a digest is not known yet
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from math import sqrt
from typing import NamedTuple

_DIGITS = re.compile(r"([0-9]+)")
_WIDTH = 12
_FLOATS = ("F", "BF")


class Kind(StrEnum):
    """How a tensor or a file of one version relates to the other version."""

    IDENTICAL = "identical"
    CHANGED = "changed"
    ADDED = "added"
    REMOVED = "removed"
    RESHAPED = "reshaped"
    RETYPED = "retyped"
    RENAMED = "renamed"
    UNKNOWN = "unknown"


class Verdict(StrEnum):
    """The whole comparison in a word."""

    IDENTICAL = "identical"
    """The same files."""
    SAME_WEIGHTS = "same_weights"
    """Other files, the same tensors: other metadata, other shards, another container."""
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    """No difference is known, but not every digest is either."""


class Side(NamedTuple):
    """A tensor as one version has it: at `offset` of the file at `path`, whose own digest is `file_sha256`."""

    path: str
    file_sha256: str
    offset: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    digest: str | None
    norm: float | None = None


class Change(NamedTuple):
    """One tensor in the comparison; `file` qualifies its name where that is needed. One side is None if not there."""

    kind: Kind
    name: str
    file: str
    a: Side | None
    b: Side | None

    @property
    def label(self) -> str:
        """The tensor's name, with its file if the name alone would be ambiguous. Of a renamed one, the new name."""
        return f"{self.file}::{self.name}" if self.file else self.name

    @property
    def size(self) -> int:
        """Bytes of the tensor, as b has it if it is there."""
        side = self.b or self.a
        return side.size if side else 0


class File(NamedTuple):
    """A file of one version."""

    size: int
    sha256: str
    is_closed: bool
    """True for a file of weights that the registry cannot look into."""


class FileChange(NamedTuple):
    """One file in the comparison, by its path."""

    kind: Kind
    path: str
    a: File | None
    b: File | None


class Count(NamedTuple):
    """How many tensors, and their bytes."""

    number: int
    size: int


class Distance(NamedTuple):
    """How far apart two arrays of as many elements are. The last three are None where they mean nothing."""

    element_count: int
    equal_count: int
    max_abs: float | None
    relative_l2: float | None
    cosine: float | None


class Module(NamedTuple):
    """The tensors of one module. `relative_l2` is that of all its tensors taken as one vector, if it is known."""

    name: str
    counts: dict[Kind, Count]
    relative_l2: float | None

    @property
    def changed_size(self) -> int:
        """Bytes of the tensors that are not the same on both sides."""
        same = (Kind.IDENTICAL, Kind.RENAMED, Kind.UNKNOWN)
        return sum(found.size for kind, found in self.counts.items() if kind not in same)


Pair = tuple[str, str, str, str]
"""Digest of a, digest of b, dtype of a, dtype of b: what a distance is known by."""


def compare(a: Sequence[Side], b: Sequence[Side]) -> list[Change]:
    """Every tensor of either version once, in the order of names, in which `layer.2` comes before `layer.10`."""
    ambiguous = _ambiguous(a) | _ambiguous(b)
    left, right = _by_name(a, ambiguous), _by_name(b, ambiguous)
    changes = [
        Change(_relation(side, right[name, file]), name, file, side, right[name, file])
        for (name, file), side in left.items()
        if (name, file) in right
    ]
    removed = [Change(Kind.REMOVED, *key, side, None) for key, side in left.items() if key not in right]
    added = [Change(Kind.ADDED, *key, None, side) for key, side in right.items() if key not in left]
    changes += _paired(sorted(removed, key=_order), sorted(added, key=_order))
    return sorted(changes, key=_order)


def compare_files(a: Mapping[str, File], b: Mapping[str, File]) -> list[FileChange]:
    """Every file of either version once, by path: identical, changed, added or removed."""
    found = []
    for path in sorted(a.keys() | b.keys()):
        left, right = a.get(path), b.get(path)
        if left is None or right is None:
            kind = Kind.ADDED if left is None else Kind.REMOVED
        else:
            kind = Kind.IDENTICAL if left.sha256 == right.sha256 else Kind.CHANGED
        found.append(FileChange(kind, path, left, right))
    return found


def verdict(changes: Sequence[Change], files: Sequence[FileChange]) -> Verdict:
    """The comparison in a word. A difference in a file of weights that cannot be looked into is a difference."""
    if all(file.kind is Kind.IDENTICAL for file in files):
        return Verdict.IDENTICAL
    if _closed(file.a for file in files) != _closed(file.b for file in files):
        return Verdict.DIFFERENT
    kinds = {change.kind for change in changes}
    if not kinds or not kinds <= {Kind.IDENTICAL, Kind.UNKNOWN}:
        return Verdict.DIFFERENT
    return Verdict.UNKNOWN if Kind.UNKNOWN in kinds else Verdict.SAME_WEIGHTS


def counts(changes: Iterable[Change]) -> dict[Kind, Count]:
    """How many tensors of each kind, and their bytes; kinds that do not occur are left out."""
    numbers: dict[Kind, list[int]] = defaultdict(lambda: [0, 0])
    for change in changes:
        number = numbers[change.kind]
        number[0] += 1
        number[1] += change.size
    return {kind: Count(*numbers[kind]) for kind in Kind if kind in numbers}


def modules(changes: Iterable[Change], distances: Mapping[Pair, Distance] | None = None) -> list[Module]:
    """The tensors by module, in the order of names; with distances if those of the pairs are given."""
    grouped: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        name = module_of(change.name)
        grouped[f"{change.file}::{name}" if change.file else name].append(change)
    return [
        Module(name, counts(grouped[name]), None if distances is None else _together(grouped[name], distances))
        for name in sorted(grouped, key=_natural)
    ]


def pair_of(change: Change) -> Pair | None:
    """What the distance of a changed or retyped tensor is known by; None for all others."""
    a, b = change.a, change.b
    if change.kind not in (Kind.CHANGED, Kind.RETYPED) or a is None or b is None or not a.digest or not b.digest:
        return None
    return a.digest, b.digest, a.dtype, b.dtype


@lru_cache(maxsize=4096)
def module_of(name: str) -> str:
    """The module that a tensor belongs to.

    Up to and including the first component that is a number (`model.layers.0`, `model.22`); without one, all but the
    last two components, and at least the first (`embeddings`, `pooler`, `lm_head`); empty for a name without a dot.
    """
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isascii() and part.isdigit():
            return ".".join(parts[: index + 1])
    return ".".join(parts[: max(1, len(parts) - 2)]) if len(parts) > 1 else ""


def _ambiguous(tensors: Iterable[Side]) -> set[str]:
    """Names under which one version has different contents."""
    seen: dict[str, Side] = {}
    found = set()
    for tensor in tensors:
        first = seen.setdefault(tensor.name, tensor)
        if first is not tensor and _relation(first, tensor) not in (Kind.IDENTICAL, Kind.UNKNOWN):
            found.add(tensor.name)
    return found


def _by_name(tensors: Iterable[Side], ambiguous: set[str]) -> dict[tuple[str, str], Side]:
    found: dict[tuple[str, str], Side] = {}
    for tensor in tensors:
        found.setdefault((tensor.name, tensor.path if tensor.name in ambiguous else ""), tensor)
    return found


def _relation(a: Side, b: Side) -> Kind:
    if a.shape != b.shape:
        return Kind.RESHAPED
    if a.dtype != b.dtype:
        return Kind.RETYPED
    if a.digest and b.digest:
        return Kind.IDENTICAL if a.digest == b.digest else Kind.CHANGED
    # The same place of the same file needs no digest of its own.
    return Kind.IDENTICAL if (a.file_sha256, a.offset) == (b.file_sha256, b.offset) else Kind.UNKNOWN


def _paired(removed: Iterable[Change], added: Iterable[Change]) -> list[Change]:
    """The same, with those that only changed their name as one; of several with equal bytes the first with the first.

    Both come in the order of names.
    """
    waiting: dict[tuple[str, str, tuple[int, ...]], list[Change]] = defaultdict(list)
    gone, found = [], []
    for change in removed:
        if change.a is not None and change.a.digest:
            waiting[change.a.digest, change.a.dtype, change.a.shape].append(change)
        else:
            gone.append(change)
    for queue in waiting.values():
        queue.reverse()  # so that the first is popped first
    for change in added:
        side = change.b
        queue = waiting.get((side.digest, side.dtype, side.shape), []) if side is not None and side.digest else []
        found.append(change._replace(kind=Kind.RENAMED, a=queue.pop().a) if queue else change)
    return [*found, *gone, *(change for queue in waiting.values() for change in queue)]


def _closed(files: Iterable[File | None]) -> set[str]:
    return {file.sha256 for file in files if file is not None and file.is_closed}


def _together(changes: Iterable[Change], distances: Mapping[Pair, Distance]) -> float | None:
    """Norm of the difference over the norm of a, of all floats with as many elements on both sides, as one vector."""
    still, moved = [], []
    for change in changes:
        if change.a is None or not change.a.dtype.startswith(_FLOATS):
            continue
        if change.kind in (Kind.IDENTICAL, Kind.RENAMED):
            still.append(change.a.norm)
        elif (pair := pair_of(change)) is not None:
            moved.append((change.a.norm, _step(change, distances.get(pair))))
    if not moved:
        return 0.0 if still else None
    norms, steps = [*still, *(norm for norm, _ in moved)], [step for _, step in moved]
    if None in norms or None in steps:
        return None
    whole = sum(norm * norm for norm in norms if norm is not None)
    return sqrt(sum(step * step for step in steps if step is not None) / whole) if whole else None


def _step(change: Change, distance: Distance | None) -> float | None:
    """The norm of the difference of one tensor, from what is stored about it and its two sides."""
    a, b = change.a, change.b
    if distance is None or a is None or b is None or a.norm is None:
        return None
    if distance.relative_l2 is not None:
        return distance.relative_l2 * a.norm
    return b.norm if a.norm == 0 and distance.max_abs is not None else None


def _order(change: Change) -> str:
    # One text and no tuple or list: of a hundred thousand of those, the garbage collector would take its share.
    return f"{_natural(change.name)}\0{change.name}\0{change.file}"


def _natural(text: str) -> str:
    """A text that sorts as people count: every number in it at the same width."""
    parts = _DIGITS.split(text)
    parts[1::2] = [digits.zfill(_WIDTH) for digits in parts[1::2]]
    return "".join(parts)
