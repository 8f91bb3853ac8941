"""Rows to wire shapes."""

from collections.abc import Mapping, Sequence

from registry import wire
from registry.db.tables import Artifact, LineageEdge, Model, Pointer, Tensor, Version
from registry.domain.digest import format_digest
from registry.domain.names import ModelName
from registry.request import Session
from registry.services import models, versions
from registry.services.actors import Actor
from registry.services.health import Report
from registry.services.versions import Surroundings


def holder(stage: str, pointer: Pointer | None, running: Mapping[int, int] | None = None) -> wire.StageHolder:
    """A stage that was never moved has no row: it is empty at seq 0. `running` counts consumers by version."""
    counted = {str(number): count for number, count in running.items()} if running is not None else None
    if pointer is None:
        return wire.StageHolder(stage=stage, version=None, seq=0, since=None, by=None, consumers=counted)
    return wire.StageHolder(
        stage=stage,
        version=pointer.number,
        seq=pointer.seq,
        since=pointer.moved_at,
        by=pointer.moved_by,
        consumers=counted,
    )


def model(
    row: Model, *, stages: Sequence[str], pointers: Sequence[Pointer], latest: int | None, tags: dict[str, str]
) -> wire.ModelOut:
    """A model with who holds its stages."""
    by_name = {pointer.name: pointer for pointer in pointers}
    objective = None
    if row.objective_metric is not None:
        objective = wire.Objective(
            metric=row.objective_metric,
            direction="min" if row.objective_direction == "min" else "max",
            dataset=row.objective_dataset,
            split=row.objective_split,
        )
    return wire.ModelOut(
        name=str(models.full_name(row)),
        description=row.description,
        objective=objective,
        created_by=row.created_by,
        created_at=row.created_at,
        last_version=row.last_version,
        latest=latest,
        stages=[holder(stage, by_name.get(stage)) for stage in stages],
        tags=tags,
    )


def artifact(row: Artifact) -> wire.ArtifactOut:
    """A file of a version."""
    return wire.ArtifactOut(
        path=row.path,
        size=row.size,
        digest=format_digest(row.sha256),
        media_type=row.media_type,
        format=row.format,
        pickle=row.is_pickle,
        tensor_count=row.tensor_count,
        segment_count=row.segment_count,
    )


def tensor(row: Tensor) -> wire.TensorOut:
    """An array of a file, with what a worker found in it."""
    return wire.TensorOut(
        name=row.name,
        dtype=row.dtype,
        shape=row.shape,
        offset=row.offset,
        size=row.size,
        digest=format_digest(row.sha256) if row.sha256 else None,
        nan_count=row.nan_count,
        inf_count=row.inf_count,
        zero_count=row.zero_count,
        minimum=row.minimum,
        maximum=row.maximum,
        norm=row.norm,
    )


def health(report: Report) -> wire.HealthOut:
    """The health of a version."""
    state, summary = {"state": report.state}, report.summary
    if summary is None:
        return wire.HealthOut.model_validate(state)
    return wire.HealthOut.model_validate({
        **state,
        "tensor_count": summary.tensor_count,
        "parameter_count": summary.parameter_count,
        "parameters_by_dtype": dict(summary.parameters_by_dtype),
        "nan_count": summary.nan_count,
        "inf_count": summary.inf_count,
        "zero_tensor_count": summary.zero_tensor_count,
        "norm": summary.norm,
        "parent": report.parent,
        "norm_drift": summary.drift.norm,
        "worst_drift": summary.drift.worst,
        "worst_tensor": summary.drift.tensor,
        "findings": dict(summary.findings),
        "computed_at": report.computed_at,
    })  # fmt: skip


def parent(edge: LineageEdge, name: ModelName | None, number: int | None) -> wire.ParentOut:
    """A parent the actor may not read keeps its relation and loses its name."""
    ref = f"{name}:{number}" if name is not None else None
    return wire.ParentOut(relation=edge.relation, ref=ref, uri=edge.parent_uri)


def version_item(row: Version, around: Surroundings) -> wire.VersionItem:
    """A version as lists show it."""
    pointers = around.pointers.get(row.id, [])
    return wire.VersionItem.model_validate({
        "model": str(models.full_name(row.model)),
        "number": row.number,
        "digest": format_digest(row.digest),
        "kind": row.kind,
        "variant": row.variant,
        "state": row.state,
        "integrity": row.integrity,
        "health": row.health,
        "message": row.message,
        "size": row.size,
        "created_by": row.created_by,
        "created_at": row.created_at,
        "run": row.run,
        "metrics": around.metrics.get(row.id, {}),
        "parents": [parent(*found) for found in around.parents.get(row.id, [])],
        "aliases": [pointer.name for pointer in pointers if pointer.kind == "alias"],
        "stages": [pointer.name for pointer in pointers if pointer.kind == "stage"],
    })  # fmt: skip


def version(
    row: Version,
    around: Surroundings,
    artifacts: Sequence[Artifact],
    tags: dict[str, str],
    *,
    created: bool | None = None,
) -> wire.VersionOut:
    """A version whole."""
    return wire.VersionOut(
        **version_item(row, around).model_dump(),
        params=row.params,
        class_names=row.class_names,
        tags=tags,
        artifacts=[artifact(each) for each in artifacts],
        created=created,
    )


def version_whole(session: Session, actor: Actor, row: Version, *, created: bool | None = None) -> wire.VersionOut:
    """A version with everything around it, read in the same transaction."""
    return version(
        row,
        versions.surroundings(session, actor, [row]),
        versions.artifacts_of(session, row),
        versions.tags_of(session, row),
        created=created,
    )


def version_bare(session: Session, row: Version) -> wire.VersionOut:
    """A version just made of files and nothing more: only the files are there to be read."""
    return version(row, Surroundings(), versions.artifacts_of(session, row), {}, created=True)
