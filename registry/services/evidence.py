"""Evidence: what the database knows of a version when a promotion is decided, as the gates want it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from registry.db.tables import Artifact, Health, LineageEdge, Metric, Model, Namespace, Tensor, Version
from registry.domain.evidence import Elements, File, Measured, VersionFacts
from registry.domain.gates import Need
from registry.services import versions

_MAX_ANCESTORS = 10_000
_MAX_DISTANCE = 1_000


def collect(session: Session, version: Version, needs: Collection[Need]) -> VersionFacts:
    """What is known of a version, as far as it is needed: one query a need."""
    facts = VersionFacts(
        number=version.number,
        integrity=version.integrity,
        health=version.health,
        class_names=tuple(version.class_names),
    )
    for need in sorted(needs):
        facts = _COLLECTORS[need](session, version, facts)
    return facts


def _metrics(session: Session, version: Version, facts: VersionFacts) -> VersionFacts:
    newest = (
        select(func.max(Metric.id))
        .where(Metric.version_id == version.id)
        .group_by(Metric.name, Metric.dataset, Metric.dataset_digest, Metric.split, Metric.slice)
    )
    rows = session.scalars(select(Metric).where(Metric.id.in_(newest)).order_by(Metric.id))
    found = tuple(
        Measured(row.name, row.value, row.recorded_at, row.dataset, row.dataset_digest, row.split, row.slice)
        for row in rows
    )
    return replace(facts, metrics=found)


def _tags(session: Session, version: Version, facts: VersionFacts) -> VersionFacts:
    return replace(facts, tags=versions.tags_of(session, version))


def _files(session: Session, version: Version, facts: VersionFacts) -> VersionFacts:
    rows = session.execute(
        select(Artifact.path, Artifact.format, Artifact.is_pickle)
        .where(Artifact.version_id == version.id)
        .order_by(Artifact.path)
    )
    return replace(facts, files=tuple(File(*row) for row in rows))


def _health(session: Session, version: Version, facts: VersionFacts) -> VersionFacts:
    row = session.get(Health, version.id)
    if row is None:
        return facts
    named: Mapping[str, list[str]] = row.findings
    return replace(
        facts,
        elements=Elements(
            nan_count=row.nan_count,
            inf_count=row.inf_count,
            zero_tensors=tuple(named.get("zero", ())),
            nan_tensors=(*named.get("nan", ()), *named.get("inf", ())),
            tensor_count=row.tensor_count,
        ),
    )


def _tensors(session: Session, version: Version, facts: VersionFacts) -> VersionFacts:
    rows = session.execute(
        select(Tensor.name, Tensor.dtype, Tensor.shape)
        .join(Artifact, Artifact.id == Tensor.artifact_id)
        .where(Artifact.version_id == version.id)
    )
    return replace(facts, tensors={name: (dtype, tuple(shape)) for name, dtype, shape in rows})


def _lineage(session: Session, version: Version, facts: VersionFacts) -> VersionFacts:
    """Ancestors without an edge of their own; what lies beyond the bound is not known, so it counts as one."""
    begin = select(Version.id.label("id"), literal(0).label("distance")).where(Version.id == version.id)
    reached = begin.cte("ancestors", recursive=True)
    reached = reached.union(
        select(LineageEdge.parent_id, reached.c.distance + 1)
        .join(reached, LineageEdge.child_id == reached.c.id)
        .where(LineageEdge.parent_id.is_not(None), reached.c.distance < _MAX_DISTANCE)
    )
    has_parent = select(LineageEdge.id).where(LineageEdge.child_id == Version.id).exists()
    query = (
        select(Namespace.name, Model.name, Version.number)
        .join(Model, Model.id == Version.model_id)
        .join(Namespace, Namespace.id == Model.namespace_id)
        .where(Version.id.in_(select(reached.c.id)), ~has_parent)
        .order_by(Version.id)
        .limit(_MAX_ANCESTORS)
    )
    found = session.execute(query)
    return replace(facts, rootless=tuple(f"{namespace}/{model}:{number}" for namespace, model, number in found))


_COLLECTORS: Final[Mapping[Need, Callable[[Session, Version, VersionFacts], VersionFacts]]] = MappingProxyType({
    Need.METRICS: _metrics,
    Need.TAGS: _tags,
    Need.FILES: _files,
    Need.HEALTH: _health,
    Need.TENSORS: _tensors,
    Need.LINEAGE: _lineage,
})  # fmt: skip
