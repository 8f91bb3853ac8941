"""Copying a version to another model, in another namespace if need be: the store copies, no bytes are uploaded."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import Artifact, Metric, Tensor, Version
from registry.domain.access import Permission
from registry.domain.audit import Action
from registry.domain.digest import format_digest
from registry.domain.lineage import Relation
from registry.domain.names import ModelName
from registry.services import artifacts, audit, lineage, metrics, publishing, segments, uploads, versions
from registry.services.actors import Actor
from registry.services.publishing import Draft, DraftArtifact
from registry.services.segments import Place
from registry.services.uploads import OpenUpload
from registry.storage.s3 import Store
from registry.weights.formats import Facts
from registry.weights.tensors import Header
from registry.weights.tensors import Tensor as Array

_COPIES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What is copied where; `moves` are the (source key, target place) pairs whose bytes the target lacks."""

    source_id: int
    source_name: str
    upload: OpenUpload
    draft: Draft
    facts: Mapping[str, Facts]
    inherited: tuple[lineage.ResolvedParent, ...]
    moves: tuple[tuple[str, Place], ...]


def plan(
    session: Session,
    actor: Actor,
    source: Version,
    target: ModelName,
    *,
    lease_s: int,
    ttl_s: int,
    now: datetime,
) -> CopyPlan:
    """Lease everything in the target's namespace and say what the store has to copy.

    Raises what beginning a push to the target raises, VersionTrashedError or VersionDamagedError.
    """
    artifacts.readable(source)
    upload = uploads.begin(session, actor, target, ttl_s=ttl_s, now=now)
    actor.check(Permission.VERSION_PUBLISH, target)
    rows = versions.artifacts_of(session, source)
    layouts = {row.path: artifacts.layout(session, row) for row in rows}
    keys = {stretch.sha256: stretch.key for layout in layouts.values() for stretch in layout}
    draft = Draft(
        artifacts=tuple(
            DraftArtifact(row.path, row.size, row.sha256, tuple((each.sha256, each.size) for each in layouts[row.path]))
            for row in rows
        ),
        kind=source.kind,
        variant=source.variant,
        message=source.message,
        params=source.params,
        class_names=source.class_names,
        run=source.run,
        metrics=_measurements(session, source),
        tags=versions.tags_of(session, source),
    )
    places = segments.ask(session, upload.namespace_id, draft.segment_sizes, lease_s=lease_s, now=now)
    return CopyPlan(
        source_id=source.id,
        source_name=versions.name_of(source),
        upload=upload,
        draft=draft,
        facts={row.path: _facts(session, row) for row in rows},
        inherited=_inherited(session, source),
        moves=tuple((keys[sha256], place) for sha256, place in places.items() if place.state == "pending"),
    )


def move(store: Store, copy: CopyPlan) -> None:
    """Have the store copy what is missing and check that it did. Raises SegmentsMissingError."""
    if not copy.moves:
        return
    with ThreadPoolExecutor(_COPIES_AT_ONCE, thread_name_prefix="copy") as pool:
        list(pool.map(lambda pair: store.copy(pair[0], pair[1].key), copy.moves))
    places = [place for _, place in copy.moves]
    missing = set(segments.unseen(places, store.head_many([place.key for place in places])))
    segments.check_complete((place.sha256 for place in places), {place.sha256 for place in places} - missing)
    store.settle()


def finish(
    session: Session, actor: Actor, copy: CopyPlan, *, message: str | None, stages: tuple[str, ...], now: datetime
) -> tuple[Version, bool]:
    """Publish the copy with the lineage, metrics and tags of its source."""
    segments.mark_live(session, [place for _, place in copy.moves])
    draft = copy.draft if message is None else replace(copy.draft, message=message)
    version, created = publishing.publish(
        session, actor, copy.upload, draft, copy.facts, inherited=copy.inherited, stages=stages, now=now
    )
    if created:
        name, namespace = versions.name_of(version), version.model.namespace.name
        detail = {"source": copy.source_name}
        audit.record(session, actor, Action.VERSION_COPY, name, detail, chain=namespace, now=now)
    return version, created


def _facts(session: Session, row: Artifact) -> Facts:
    tensors = session.scalars(select(Tensor).where(Tensor.artifact_id == row.id).order_by(Tensor.position))
    arrays = tuple(Array(each.name, each.dtype, tuple(each.shape), each.offset, each.size) for each in tensors)
    return Facts(row.format, row.is_pickle, Header(arrays, row.header_metadata, row.header_size))


def _measurements(session: Session, source: Version) -> list[metrics.Measurement]:
    rows = session.scalars(select(Metric).where(Metric.version_id == source.id).order_by(Metric.id))
    return [
        metrics.Measurement(
            name=row.name,
            value=row.value,
            step=row.step,
            dataset=row.dataset,
            dataset_digest=format_digest(row.dataset_digest) if row.dataset_digest else None,
            split=row.split,
            slice=row.slice,
            evaluator=row.evaluator,
            sample_count=row.sample_count,
        )
        for row in rows
    ]


def _inherited(session: Session, source: Version) -> tuple[lineage.ResolvedParent, ...]:
    return tuple(
        lineage.ResolvedParent(Relation(edge.relation), parent, edge.parent_uri)
        for edge, parent in versions.parents_of(session, [source.id])
    )
