"""`…/versions/{number}/diff/{ref}`: what changed from a version to another, tensor by tensor."""

from http import HTTPStatus
from typing import Final

from flask import Blueprint, Response, request

from registry import wire
from registry.api.operation import PAGED, Parameter, operation
from registry.domain.access import Permission
from registry.domain.digest import format_digest
from registry.domain.names import ModelName
from registry.domain.references import parse_reference
from registry.request import (
    InvalidCursorError,
    InvalidParameterError,
    actor,
    answer,
    choice_parameter,
    cursor,
    next_cursor,
    page,
    page_limit,
    requires,
    transaction,
)
from registry.services import diffs, versions
from registry.services.diffs import Comparison, Measured
from registry.weights import diff
from registry.weights.diff import Change, Count, FileChange, Kind, Module, Side

bp = Blueprint("diffs", __name__)

_PATH = "/models/<model:model>/versions/<int:number>/diff/<path:ref>"
_KINDS: Final = "|".join(Kind)
_CLASS = Parameter(
    "class",
    "Only tensors of these classes, separated by commas.",
    {"type": "string", "pattern": f"^(?:{_KINDS})(?:,(?:{_KINDS})){{0,7}}$"},
)
_STATISTICS = Parameter(
    "statistics", "1 for how far apart changed tensors are, as far as known.", {"type": "string", "enum": ["0", "1"]}
)


@bp.get(_PATH)
@requires(Permission.VERSION_READ)
@operation(
    "Compare a version with another",
    answers={200: wire.DiffOut},
    query=(*PAGED, _CLASS, _STATISTICS),
    refuses=(410,),
)
def show(model: ModelName, number: int, ref: str) -> Response:
    """What changed from this version to the one at `ref`, a full reference; told from digests, so at once."""
    limit, after, wanted = page_limit(), cursor(int, int), _kinds()
    asked = choice_parameter("statistics", "0", "1", default="0") == "1"
    reference = parse_reference(ref)
    with transaction(read_only=True) as session:
        comparison = diffs.find(session, actor(), model, number, reference)
        measured = diffs.measured(session, comparison) if asked else None
        return page(_shape(comparison, measured, wanted=wanted, after=after, limit=limit))


@bp.post(_PATH)
@requires(Permission.VERSION_READ)
@operation(
    "Have the differences measured",
    answers={200: wire.MeasuringOut, 202: wire.MeasuringOut},
    refuses=(410,),
)
def measure(model: ModelName, number: int, ref: str) -> Response:
    """A worker reads both versions and measures how far apart changed tensors are, once for each pair of contents."""
    reference = parse_reference(ref)
    with transaction() as session:
        comparison = diffs.find(session, actor(), model, number, reference)
        found = diffs.request(session, comparison)
        shape = wire.MeasuringOut(
            a=versions.name_of(comparison.a),
            b=versions.name_of(comparison.b),
            pending=list(comparison.pending),
            statistics=found.state,
            statistics_done=found.done,
            statistics_total=found.total,
        )
        return answer(shape, HTTPStatus.ACCEPTED if found.state == "pending" else HTTPStatus.OK)


def _kinds() -> frozenset[Kind]:
    """The classes that the request asks for. Raises InvalidParameterError."""
    text = request.args.get("class")
    if text is None:
        return frozenset(Kind)
    names = text.split(",")
    if len(names) > len(Kind) or not set(names) <= set(Kind):
        raise InvalidParameterError(f"class must be one or more of {', '.join(Kind)}, separated by commas.")
    return frozenset(map(Kind, names))


def _shape(
    comparison: Comparison,
    measured: Measured | None,
    *,
    wanted: frozenset[Kind],
    after: tuple[int, int] | None,
    limit: int,
) -> wire.DiffOut:
    changes, begin = comparison.changes, 0
    if after is not None:
        begin, length = after[0] + 1, after[1]
        if begin < 1 or length != len(changes):  # a digest that came meanwhile may have made one of two
            raise InvalidCursorError("The cursor is not one of this comparison, or more is known of it by now.")
    found: list[tuple[int, Change]] = []
    for position in range(begin, len(changes)):
        if changes[position].kind in wanted:
            found.append((position, changes[position]))
            if len(found) > limit:
                break
    following = next_cursor(found, limit, lambda item: (item[0], len(changes)))
    distances = measured.distances if measured else {}
    return wire.DiffOut(
        a=versions.name_of(comparison.a),
        b=versions.name_of(comparison.b),
        verdict=comparison.verdict.value,
        pending=list(comparison.pending),
        summary=_counts(diff.counts(changes)),
        statistics=measured.state if measured else None,
        statistics_done=measured.done if measured else 0,
        statistics_total=measured.total if measured else 0,
        modules=None if after else [_module(each) for each in diff.modules(changes, distances if measured else None)],
        artifacts=None if after else [_file(each) for each in comparison.files],
        items=[_tensor(change, distances) for _, change in found],
        next=following,
    )


def _tensor(change: Change, distances: dict[diff.Pair, diff.Distance]) -> wire.TensorDiff:
    pair = diff.pair_of(change)
    distance = distances.get(pair) if pair is not None else None
    return wire.TensorDiff(
        name=change.label,
        change=change.kind.value,
        a=_side(change.a),
        b=_side(change.b),
        distance=wire.TensorDistance(**distance._asdict()) if distance is not None else None,
    )


def _side(side: Side | None) -> wire.TensorSide | None:
    if side is None:
        return None
    return wire.TensorSide(
        path=side.path,
        name=side.name,
        dtype=side.dtype,
        shape=list(side.shape),
        size=side.size,
        digest=format_digest(side.digest) if side.digest else None,
    )


def _counts(counts: dict[Kind, Count]) -> dict[wire.TensorChange, wire.DiffCount]:
    return {kind.value: wire.DiffCount(count=found.number, size=found.size) for kind, found in counts.items()}


def _module(module: Module) -> wire.ModuleDiff:
    return wire.ModuleDiff(
        name=module.name,
        counts=_counts(module.counts),
        changed_size=module.changed_size,
        relative_l2=module.relative_l2,
    )


def _file(change: FileChange) -> wire.ArtifactDiff:
    a, b = change.a, change.b
    return wire.ArtifactDiff.model_validate({
        "path": change.path,
        "change": change.kind.value,
        "a_size": a.size if a else None,
        "b_size": b.size if b else None,
        "a_digest": format_digest(a.sha256) if a else None,
        "b_digest": format_digest(b.sha256) if b else None,
    })  # fmt: skip
