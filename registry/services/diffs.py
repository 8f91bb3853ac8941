"""Differences between two versions: told from digests at once, measured by a worker that reads both sides.

What was measured is kept by the digests of the two tensors, so that it is never measured twice, whatever the versions.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from json import loads
from typing import Any, Final, Literal

from sqlalchemy import Text, cast, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry.db.queue import SLOW_QUEUE, enqueue, runs
from registry.db.tables import Artifact, Tensor, TensorDiff, Version
from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.domain.references import Reference
from registry.services import artifacts, versions
from registry.services.actors import Actor
from registry.services.artifacts import Stretch
from registry.weights import diff
from registry.weights.diff import Change, Distance, File, FileChange, Pair, Side, Verdict
from registry.weights.distance import is_measurable

MEASURE: Final = "measure_difference"
"""The workflow that measures how far apart the changed tensors of two versions are."""

State = Literal["none", "pending", "done", "failed"]
Letter = Literal["a", "b"]

_ATTEMPTS: Final = 5
_PAIRS_A_QUERY: Final = 2_000
_ROWS_A_STATEMENT: Final = 1_000
_TRANSPARENT: Final = frozenset({"opaque", "safetensors", "safetensors-index"})


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed from version `a` to version `b`. `pending` are the sides of which digests are not known yet."""

    a: Version
    b: Version
    changes: list[Change]
    files: list[FileChange]
    verdict: Verdict
    pending: tuple[Letter, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """How far measuring has come, and what is known. `failed`: it was tried several times and never came to an end."""

    state: State
    done: int
    total: int
    distances: dict[Pair, Distance]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the bytes of a file are."""

    stretches: tuple[Stretch, ...]
    starts: tuple[int, ...]

    def at(self, offset: int) -> Stretch:
        """The stretch that holds the byte at `offset`."""
        return self.stretches[bisect_right(self.starts, offset) - 1]


@dataclass(frozen=True, slots=True)
class Task:
    """Two tensors to measure: where each begins, and in which file."""

    pair: Pair
    element_count: int
    a: Layout
    a_offset: int
    b: Layout
    b_offset: int
    size: int
    """Bytes of both."""


def find(session: Session, actor: Actor, name: ModelName, number: int, other: Reference) -> Comparison:
    """Compare a version with the one that a reference means, if the actor may read both and both are ready.

    Raises what `versions.find`, `versions.live` and `versions.resolve` raise.
    """
    a = versions.live(versions.find(session, actor, name, number, Permission.VERSION_READ))
    return compare(session, a, versions.resolve(session, actor, other))


def compare(session: Session, a: Version, b: Version) -> Comparison:
    """Compare by digests: one query for the files and one for the tensors of each side."""
    rows = session.scalars(select(Artifact).where(Artifact.version_id.in_({a.id, b.id}))).all()
    sides = [_tensors(session, rows, version) for version in (a, b)]
    changes = diff.compare(*sides)
    files = diff.compare_files(_files(rows, a), _files(rows, b))
    letters: tuple[Letter, ...] = ("a", "b")
    pending = tuple(
        letter for letter, side in zip(letters, sides, strict=True) if any(each.digest is None for each in side)
    )
    return Comparison(a, b, changes, files, diff.verdict(changes, files), pending)


def measured(session: Session, comparison: Comparison) -> Measured:
    """What is known of the distances between changed tensors, and whether a worker is at it."""
    pairs = _pairs(comparison)
    distances = _known(session, list(pairs))
    state: State = "none"
    if len(distances) == len(pairs) and not comparison.pending:
        state = "done"
    elif len(distances) < len(pairs):
        attempts = runs(session, MEASURE, keys=_keys(comparison))
        if any(attempts.values()):
            state = "pending"
        elif len(attempts) == _ATTEMPTS:
            state = "failed"
    return Measured(state, len(distances), len(pairs), distances)


def request(session: Session, comparison: Comparison) -> Measured:
    """Have a worker measure what is not known, unless one is at it; say how far it is.

    Raises VersionDamagedError, VersionTrashedError or VersionPurgedError.
    """
    artifacts.readable(comparison.a)
    artifacts.readable(comparison.b)
    found = measured(session, comparison)
    if found.state != "none" or found.done == found.total:
        return found
    attempts = runs(session, MEASURE, keys=_keys(comparison))
    key = next(key for key in _keys(comparison) if key not in attempts)
    enqueue(session, MEASURE, comparison.a.id, comparison.b.id, key=key, queue=SLOW_QUEUE)
    return replace(found, state="pending")


def tasks(session: Session, a_id: int, b_id: int) -> list[Task]:
    """What is left to measure between two versions, in the order of the first one's bytes.

    Nothing if one was deleted meanwhile. Raises VersionDamagedError if bytes are known to be gone.
    """
    a, b = session.get(Version, a_id), session.get(Version, b_id)
    if a is None or b is None or "purged" in (a.state, b.state):
        return []
    pairs = _pairs(compare(session, a, b))
    known = _known(session, list(pairs))
    wanted = [(pair, change) for pair, change in pairs.items() if pair not in known]
    left = _layouts(session, a, {change.a.path for _, change in wanted if change.a})
    right = _layouts(session, b, {change.b.path for _, change in wanted if change.b})
    found = [
        Task(
            pair,
            _elements(change.a),
            left[change.a.path],
            change.a.offset,
            right[change.b.path],
            change.b.offset,
            change.a.size + change.b.size,
        )
        for pair, change in wanted
        if change.a is not None and change.b is not None
    ]
    return sorted(found, key=lambda task: (task.a.stretches[0].key if task.a.stretches else "", task.a_offset))


def batches(found: Sequence[Task], size: int) -> Iterator[list[Task]]:
    """The tasks in groups of about so many bytes, to keep what was measured now and then."""
    group: list[Task] = []
    held = 0
    for task in found:
        group.append(task)
        held += task.size
        if held >= size:
            yield group
            group, held = [], 0
    if group:
        yield group


def record(session: Session, found: Sequence[tuple[Pair, Distance]], *, now: datetime) -> None:
    """Keep what was measured; what another worker kept meanwhile stays."""
    dialect: Any = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    for start in range(0, len(found), _ROWS_A_STATEMENT):
        rows = [
            {
                "a_sha256": pair[0],
                "b_sha256": pair[1],
                "a_dtype": pair[2],
                "b_dtype": pair[3],
                "computed_at": now,
                **distance._asdict(),
            }
            for pair, distance in found[start : start + _ROWS_A_STATEMENT]
        ]
        session.execute(dialect.insert(TensorDiff).on_conflict_do_nothing(), rows)


def _keys(comparison: Comparison) -> list[str]:
    """One for each attempt: what was enqueued once under a key is not enqueued again."""
    return [f"{comparison.a.id}-{comparison.b.id}-{attempt}" for attempt in range(1, _ATTEMPTS + 1)]


def _pairs(comparison: Comparison) -> dict[Pair, Change]:
    """The tensors that can be measured, each pair of contents once."""
    found: dict[Pair, Change] = {}
    for change in comparison.changes:
        pair = diff.pair_of(change)
        if pair is not None and is_measurable(pair[2], pair[3]):
            found.setdefault(pair, change)
    return found


def _known(session: Session, pairs: Sequence[Pair]) -> dict[Pair, Distance]:
    found: dict[Pair, Distance] = {}
    for start in range(0, len(pairs), _PAIRS_A_QUERY):
        wanted = {pair[:2]: None for pair in pairs[start : start + _PAIRS_A_QUERY]}
        query = select(
            TensorDiff.a_sha256, TensorDiff.b_sha256, TensorDiff.a_dtype, TensorDiff.b_dtype, TensorDiff.element_count,
            TensorDiff.equal_count, TensorDiff.max_abs, TensorDiff.relative_l2, TensorDiff.cosine,
        ).where(tuple_(TensorDiff.a_sha256, TensorDiff.b_sha256).in_(list(wanted)))  # fmt: skip
        for row in session.execute(query):
            found[row[0], row[1], row[2], row[3]] = Distance(*row[4:])
    return {pair: found[pair] for pair in pairs if pair in found}


def _tensors(session: Session, rows: Sequence[Artifact], version: Version) -> list[Side]:
    places = {row.id: (row.path, row.sha256) for row in rows if row.version_id == version.id}
    query = (
        select(
            Tensor.artifact_id, Tensor.offset, Tensor.name, Tensor.dtype, cast(Tensor.shape, Text), Tensor.size,
            Tensor.sha256, Tensor.norm,
        )
        .where(Tensor.artifact_id.in_(places))
        .order_by(Tensor.artifact_id, Tensor.position)
    )  # fmt: skip
    return [
        Side(*places[artifact], offset, name, dtype, _shape(shape), size, digest, norm)
        for artifact, offset, name, dtype, shape, size, digest, norm in session.execute(query)
    ]


@lru_cache(maxsize=4096)
def _shape(text: str) -> tuple[int, ...]:
    """From the database's own text: a model has few shapes and many tensors."""
    return tuple(loads(text))


def _files(rows: Sequence[Artifact], version: Version) -> dict[str, File]:
    return {row.path: File(row.size, row.sha256, _is_closed(row)) for row in rows if row.version_id == version.id}


def _is_closed(row: Artifact) -> bool:
    return not row.tensor_count and (row.is_pickle or row.format not in _TRANSPARENT)


def _layouts(session: Session, version: Version, paths: set[str]) -> dict[str, Layout]:
    found = {}
    for path in sorted(paths):
        stretches = tuple(artifacts.layout(session, artifacts.find(session, version, path)))
        found[path] = Layout(stretches, tuple(stretch.offset for stretch in stretches))
    return found


def _elements(side: Side) -> int:
    count = 1
    for dimension in side.shape:
        count *= dimension
    return count
