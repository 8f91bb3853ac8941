"""Publishing: from segments that are in the store to a numbered, immutable version.

Three steps, so that no transaction spans a transfer: `plan` reads rows, `inspect` reads the headers from the store,
`publish` checks every rule again on locked rows and makes the version visible, all at once.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from registry.db.queue import enqueue
from registry.db.session import UnstorableValueError
from registry.db.tables import Artifact, ArtifactSegment, Model, Tensor, Version
from registry.domain.audit import Action
from registry.domain.digest import format_digest
from registry.domain.errors import InvalidError
from registry.domain.manifest import ManifestEntry, canonical_json, manifest_digest
from registry.domain.names import check_label
from registry.domain.paths import check_artifact_paths
from registry.domain.references import Parent
from registry.services import audit, integrity, lineage, metrics, models, pointers, segments, tags, uploads, versions
from registry.services.actors import Actor
from registry.services.integrity import VERIFY
from registry.services.metrics import Measurement
from registry.services.segments import Place, SegmentSizeError
from registry.services.uploads import OpenUpload
from registry.storage.s3 import Store
from registry.weights import confined, external, formats, sharded
from registry.weights.formats import Facts
from registry.weights.tensors import Header

_READS_AT_ONCE = 8
_MAX_PARAMS_BYTES = 256 * 1024
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""An escaped NUL in JSON, which an escaped backslash before `u0000` is not."""


class LayoutError(InvalidError):
    """An artifact's segments do not add up to the artifact."""

    code = "LAYOUT_INVALID"
    remedy = "Cut the file again: its segments must follow each other from the first byte to the last."


class ParamsTooLargeError(InvalidError):
    """The hyperparameters or class names are over 256 KiB as JSON."""

    code = "PARAMS_TOO_LARGE"
    remedy = "Keep large values in a file of the version, or in a run."


@dataclass(frozen=True, slots=True)
class DraftArtifact:
    """A file to publish: sha256 in hex, and its segments in order as (sha256, size)."""

    path: str
    size: int
    sha256: str
    segments: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """Everything a push says of its version."""

    artifacts: tuple[DraftArtifact, ...]
    kind: str = "release"
    variant: str | None = None
    message: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    class_names: Sequence[str] = ()
    run: str | None = None
    parents: Sequence[Parent] = ()
    metrics: Sequence[Measurement] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Sequence[str] = ()
    new: bool = False

    @property
    def is_bare(self) -> bool:
        """Whether it is files and nothing more: what it becomes has nothing around it yet."""
        return not (self.parents or self.metrics or self.tags or self.aliases)

    @property
    def segment_sizes(self) -> dict[str, int]:
        """Every segment's size by its sha256. Raises SegmentSizeError if a digest has two."""
        sizes: dict[str, int] = {}
        for artifact in self.artifacts:
            for sha256, size in artifact.segments:
                if sizes.setdefault(sha256, size) != size:
                    raise SegmentSizeError(f"{format_digest(sha256)} was given with two sizes.")
        return sizes

    @property
    def digest(self) -> str:
        """The manifest's digest in hex."""
        return manifest_digest(
            ManifestEntry(each.path, each.size, each.sha256, formats.media_type(each.path)) for each in self.artifacts
        )


def check(draft: Draft) -> None:
    """The rules that need nothing but the draft: paths, layouts, bounds.

    Raises InvalidPathError, PathCollisionError, LayoutError, InvalidLabelError, ParamsTooLargeError,
    UnstorableValueError or SegmentSizeError.
    """
    check_artifact_paths(artifact.path for artifact in draft.artifacts)
    for artifact in draft.artifacts:
        if sum(size for _, size in artifact.segments) != artifact.size:
            raise LayoutError(f"The segments of {artifact.path} do not add up to its {artifact.size} bytes.")
        if len(artifact.segments) == 1 and artifact.segments[0][0] != artifact.sha256:
            raise LayoutError(f"{artifact.path} is one segment, yet their digests differ.")
        if not artifact.segments and artifact.sha256 != hashlib.sha256().hexdigest():
            raise LayoutError(f"{artifact.path} is empty, yet its digest is not that of nothing.")
    if draft.run is not None:
        check_label(draft.run, "run")
    for key in draft.params:
        check_label(key, "parameter")
    described = canonical_json([dict(draft.params), list(draft.class_names)])
    if len(described) > _MAX_PARAMS_BYTES:
        raise ParamsTooLargeError("The hyperparameters and class names are over 256 KiB.")
    if _NUL.search(described):  # one of the databases would take it, the other not
        raise UnstorableValueError("The hyperparameters or class names hold a NUL character.")


def plan(session: Session, upload: OpenUpload, draft: Draft) -> dict[str, Place]:
    """Where each segment of the draft is. Raises SegmentsMissingError for those that are nowhere."""
    wanted = draft.segment_sizes
    found = segments.places(session, upload.namespace_id, wanted)
    segments.check_complete(wanted, [sha256 for sha256, place in found.items() if place.state == "live"])
    return found


def inspect(store: Store, draft: Draft, places: Mapping[str, Place]) -> dict[str, Facts]:
    """What the files are, by path, from bounded reads of the store.

    Raises the error of a format that is promised and not kept, WeightsTooComplexError, or StorageUnavailableError.
    """

    def look(artifact: DraftArtifact) -> Facts:
        return confined.facts(artifact.path, artifact.size, _reader(store, artifact, places))

    with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="inspect") as pool:
        facts = {
            artifact.path: found
            for artifact, found in zip(draft.artifacts, pool.map(look, draft.artifacts), strict=True)
        }
    for artifact in draft.artifacts:
        if sharded.is_index(artifact.path):
            index = confined.index(artifact.path, artifact.size, _reader(store, artifact, places))
            sharded.check_shards(artifact.path, index, _safetensors_only(facts))
    own = {path: each.header for path, each in facts.items() if each.header is not formats.NO_HEADER}
    given = external.headers(own, {artifact.path: artifact.size for artifact in draft.artifacts})
    return facts | {path: replace(facts[path], header=header) for path, header in given.items()}


def publish(
    session: Session,
    actor: Actor,
    upload: OpenUpload,
    draft: Draft,
    facts: Mapping[str, Facts],
    *,
    stages: Sequence[str],
    now: datetime,
    inherited: Sequence[lineage.ResolvedParent] = (),
) -> tuple[Version, bool]:
    """The new version, or the one that this push repeats, and whether it is new.

    `inherited` are parents of the version this one is a copy of, known already.

    Raises what checking parents, aliases, tags and metrics raises, ModelExistsError, SegmentsMissingError.
    """
    model = models.lock(session, models.ensure(session, actor, upload.model, now=now))
    parents = [*lineage.resolve_parents(session, actor, draft.parents), *inherited]
    lineage.check_variant(draft.variant, parents)
    key = _push_key(draft, parents)
    known = None if draft.new else _repeated(session, model, key)
    version = known or _version(session, actor, model, draft, key=key, now=now)
    if known is None:
        held = segments.live_ids(session, upload.namespace_id, draft.segment_sizes)
        for artifact in draft.artifacts:
            _insert_artifact(session, version, artifact, facts[artifact.path], held)
        lineage.insert(session, version, parents)
        detail = {"digest": format_digest(version.digest), "size": version.size, "kind": version.kind}
        name = versions.name_of(version)
        audit.record(session, actor, Action.VERSION_PUBLISH, name, detail, chain=model.namespace.name, now=now)
        enqueue(session, VERIFY, version.id, key=str(version.id))
    elif version.integrity == "damaged":
        integrity.prove_again(session, version, key=upload.id)
    uploads.close(session, upload.id, version.id)
    if draft.tags:
        tags.set_on_version(session, actor, version, draft.tags, now=now)
    if draft.metrics:
        metrics.record(session, actor, version, draft.metrics, now=now, skip_known=True)
    for alias in draft.aliases:
        pointers.point(session, actor, model, alias, version.number, stages=stages, now=now)
    return version, known is None


def next_number(session: Session, model: Model) -> int:
    """The next number of a model, by one atomic statement; it is never given out again."""
    statement = (
        update(Model)
        .where(Model.id == model.id)
        .values(last_version=Model.last_version + 1)
        .returning(Model.last_version)
        .execution_options(synchronize_session=False)
    )
    return int(session.execute(statement).scalar_one())


def _repeated(session: Session, model: Model, key: str) -> Version | None:
    query = (
        select(Version)
        .where(Version.model_id == model.id, Version.push_key == key, Version.state == "ready")
        .order_by(Version.number.desc())
        .limit(1)
    )
    found = session.scalar(query)
    if found is not None:
        found.model = model
    return found


def _push_key(draft: Draft, parents: Sequence[lineage.ResolvedParent]) -> str:
    named = sorted(f"{parent.relation}={parent.version.id if parent.version else parent.uri}" for parent in parents)
    content = [draft.digest, draft.kind, draft.variant, draft.run, named, dict(draft.params)]
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _version(session: Session, actor: Actor, model: Model, draft: Draft, *, key: str, now: datetime) -> Version:
    version = Version(
        model_id=model.id,
        number=next_number(session, model),
        digest=draft.digest,
        push_key=key,
        kind=draft.kind,
        variant=draft.variant,
        message=draft.message,
        size=sum(artifact.size for artifact in draft.artifacts),
        params=dict(draft.params),
        class_names=list(draft.class_names),
        run=draft.run,
        created_by=actor.name,
        created_at=now,
    )
    version.model = model
    session.add(version)
    session.flush()  # artifacts and edges need its id
    return version


def _insert_artifact(
    session: Session, version: Version, draft: DraftArtifact, facts: Facts, held: Mapping[str, int]
) -> None:
    row = Artifact(
        version_id=version.id,
        path=draft.path,
        size=draft.size,
        sha256=draft.sha256,
        media_type=formats.media_type(draft.path),
        format=facts.format,
        is_pickle=facts.pickle,
        header_size=facts.header.size,
        tensor_count=len(facts.header.tensors),
        segment_count=len(draft.segments),
        header_metadata=facts.header.metadata,
    )
    session.add(row)
    session.flush()  # its segments and tensors need its id
    layout, offset = [], 0
    for position, (sha256, size) in enumerate(draft.segments):
        layout.append(
            {"artifact_id": row.id, "position": position, "segment_id": held[sha256], "offset": offset}
        )  # fmt: skip
        offset += size
    if layout:
        session.execute(insert(ArtifactSegment), layout)
    if facts.header.tensors:
        session.execute(
            insert(Tensor),
            [
                {
                    "artifact_id": row.id,
                    "position": position,
                    "name": tensor.name,
                    "dtype": tensor.dtype,
                    "shape": list(tensor.shape),
                    "offset": tensor.offset,
                    "size": tensor.size,
                }
                for position, tensor in enumerate(facts.header.tensors)
            ],
        )


def _reader(store: Store, artifact: DraftArtifact, places: Mapping[str, Place]) -> formats.ReadAt:
    """Read any range of an artifact through its segments."""
    starts, offset = [], 0
    for _, size in artifact.segments:
        starts.append(offset)
        offset += size

    def read(at: int, size: int) -> bytes:
        end, parts = min(at + size, artifact.size), []
        while at < end:
            index = bisect_right(starts, at) - 1
            sha256, length = artifact.segments[index]
            within = at - starts[index]
            take = min(length - within, end - at)
            parts.append(store.read(places[sha256].key, within, take))
            at += take
        return b"".join(parts)

    return read


def _safetensors_only(facts: Mapping[str, Facts]) -> dict[str, Header]:
    return {path: each.header for path, each in facts.items() if each.format == "safetensors"}
