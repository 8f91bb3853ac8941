"""Health: what a worker found in the tensors of a version, written by it and read by everybody else.

`integrity` has it written in the transaction that says the bytes are right. Until then a version's health is pending;
it is failed if the bytes are not right, for then the numbers in them say nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from math import prod
from typing import Any, Self

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.orm import Session

from registry.db.tables import Artifact, Health, LineageEdge, Tensor, Version
from registry.domain.access import Permission
from registry.domain.health import FLOATING, Drift, HealthSummary, Measured, summarise
from registry.services import models, versions
from registry.services.actors import Actor

_BATCH = 5_000
"""Tensors written in one transaction: other writers wait for a fraction of a second."""

_STORE = update(Tensor).where(
    Tensor.artifact_id == bindparam("of_artifact"), Tensor.position == bindparam("at_position")
)
"""Sets the columns that its parameters name."""


@dataclass(frozen=True, slots=True)
class Found:
    """A tensor by its row, with the digest of its bytes (hex) and what was measured."""

    artifact_id: int
    position: int
    sha256: str
    measured: Measured


@dataclass(frozen=True, slots=True)
class Compared:
    """The summary of a version, and the id of the version that its norms were compared with."""

    summary: HealthSummary
    parent_id: int | None = None

    def document(self) -> dict[str, Any]:
        """The same in JSON, as the steps of a workflow pass it on."""
        return asdict(self)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """What `document` gave."""
        summary = document["summary"]
        return cls(HealthSummary(**summary | {"drift": Drift(**summary["drift"])}), document["parent_id"])


@dataclass(frozen=True, slots=True)
class Report:
    """The health of a version as it may be told: `summary` once it is done; `parent` is what norms were compared with.

    `parent` is None also where the actor may not read it.
    """

    state: str
    summary: HealthSummary | None = None
    parent: str | None = None
    computed_at: datetime | None = None


def batches(tensors: Sequence[Found]) -> Iterator[Sequence[Found]]:
    """Portions for `store`, each for a transaction of its own."""
    return (tensors[start : start + _BATCH] for start in range(0, len(tensors), _BATCH))


def store(session: Session, tensors: Sequence[Found]) -> None:
    """Write digests and statistics into the tensors' rows. Repeating it changes nothing."""
    rows = [
        {"of_artifact": each.artifact_id, "at_position": each.position, "sha256": each.sha256}
        | asdict(each.measured.statistics)
        for each in tensors
    ]
    session.connection().execute(_STORE, rows)


def compare(session: Session, version_id: int, tensors: Sequence[Found]) -> Compared:
    """The summary of a version whose tensors were measured, compared with a parent if there is one.

    That is the first parent named whose health is known by now: one that is measured later leaves the drift unknown.
    """
    parent = session.scalars(
        select(Version.id)
        .join(LineageEdge, LineageEdge.parent_id == Version.id)
        .where(LineageEdge.child_id == version_id, Version.health == "done")
        .order_by(LineageEdge.id)
        .limit(1)
    ).first()
    norms = _norms(session, parent) if parent is not None else None
    return Compared(summarise((each.measured for each in tensors), norms), parent)


def record(session: Session, version: Version, found: Compared | None, *, now: datetime) -> dict[str, int]:
    """Write the health of a locked version, or that it could not be found; gives what the event should say of it."""
    session.execute(delete(Health).where(Health.version_id == version.id))
    version.health = "done" if found else "failed"
    if found is None:
        return {}
    summary = found.summary
    session.add(
        Health(
            version_id=version.id,
            tensor_count=summary.tensor_count,
            parameter_count=summary.parameter_count,
            parameters_by_dtype=dict(summary.parameters_by_dtype),
            nan_count=summary.nan_count,
            inf_count=summary.inf_count,
            zero_tensor_count=summary.zero_tensor_count,
            norm=summary.norm,
            parent_id=found.parent_id,
            norm_drift=summary.drift.norm,
            worst_drift=summary.drift.worst,
            worst_tensor=summary.drift.tensor,
            findings=dict(summary.findings),
            computed_at=now,
        )
    )
    counts = {"nan": summary.nan_count, "inf": summary.inf_count, "zero_tensors": summary.zero_tensor_count}
    return {"parameters": summary.parameter_count} | {name: count for name, count in counts.items() if count}


def summary(session: Session, version: Version) -> HealthSummary | None:
    """The health of a version; None while it is pending or if it failed, which `version.health` tells apart."""
    row = _row(session, version)
    return None if row is None else _summary(row)


def report(session: Session, actor: Actor, version: Version) -> Report:
    """The health of a version, in whatever state, for somebody who may read the version."""
    row = _row(session, version)
    if row is None:
        return Report(version.health)
    parent = None
    for _, candidate in versions.parents_of(session, [version.id]) if row.parent_id is not None else ():
        if candidate is not None and candidate.id == row.parent_id:
            visible = actor.may(Permission.VERSION_READ, models.full_name(candidate.model))
            parent = versions.name_of(candidate) if visible else None
    return Report(version.health, _summary(row), parent, row.computed_at)


def _row(session: Session, version: Version) -> Health | None:
    return session.get(Health, version.id) if version.health == "done" else None


def _summary(row: Health) -> HealthSummary:
    return HealthSummary(
        tensor_count=row.tensor_count,
        parameter_count=row.parameter_count,
        parameters_by_dtype=row.parameters_by_dtype,
        nan_count=row.nan_count,
        inf_count=row.inf_count,
        zero_tensor_count=row.zero_tensor_count,
        norm=row.norm,
        drift=Drift(row.norm_drift, row.worst_drift, row.worst_tensor),
        findings=row.findings,
    )


def _norms(session: Session, version_id: int) -> dict[str, tuple[int, float]]:
    """Elements and norm of a version's floating tensors by name; of two with one name the first."""
    rows: Any = session.execute(
        select(Tensor.name, Tensor.shape, Tensor.norm)
        .join(Artifact, Artifact.id == Tensor.artifact_id)
        .where(Artifact.version_id == version_id, Tensor.norm.is_not(None), Tensor.dtype.in_(FLOATING))
        .order_by(Artifact.path, Tensor.position)
    )
    norms: dict[str, tuple[int, float]] = {}
    for name, shape, norm in rows:
        norms.setdefault(name, (prod(shape), norm))
    return norms
