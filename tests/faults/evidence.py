"""What a registry really holds, read from its database and its bucket without asking it."""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from random import Random

import numpy as np
from safetensors.numpy import save_file
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from registry.client._sources import sources
from registry.db.session import Database
from registry.db.tables import (
    Artifact,
    ArtifactSegment,
    Chain,
    Event,
    Model,
    Namespace,
    Segment,
    StoredObject,
    Upload,
    Version,
)
from registry.domain import audit
from registry.domain.manifest import ManifestEntry, manifest_digest
from registry.services.integrity import VERIFY
from registry.storage.layout import segment_key
from registry.storage.s3 import Store, StoreConfig
from registry.weights.formats import media_type

MIB = 1 << 20
_STILL_S = 1.0


@dataclass(frozen=True, slots=True)
class Content:
    """Files to push: sha256 by path, and the size of each distinct segment by its sha256."""

    folder: Path
    files: dict[str, str]
    segments: dict[str, int]

    @property
    def size(self) -> int:
        return sum(self.segments.values())

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return manifest_digest(
            ManifestEntry(path, (self.folder / path).stat().st_size, sha256, media_type(path))
            for path, sha256 in self.files.items()
        )

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def make_content(folder: Path, random: Random, *, mib: tuple[int, int]) -> Content:
    """Weights of a random size that nobody has, beside a tensor and a file that every version has, in small files."""
    (folder / "labels").mkdir(parents=True)
    numbers = np.random.default_rng(random.getrandbits(64))
    fresh = random.randint(*mib) * MIB
    tensors = {"shared": np.frombuffer(np.random.default_rng(7).bytes(5 * MIB), np.uint8)}
    for index in range(6):
        tensors[f"norm.{index}"] = np.frombuffer(numbers.bytes(random.randrange(1_000, 150_000)), np.uint8)
    while fresh > 0:
        size = min(fresh, random.randint(2 * MIB, 10 * MIB))
        tensors[f"layer.{fresh}"] = np.frombuffer(numbers.bytes(size), np.uint8)
        fresh -= size
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(f'{{"draw": {random.getrandbits(64)}}}')
    (folder / "labels/names.txt").write_text("cat\ndog\n")
    (folder / "empty.txt").touch()
    return content_of(folder)


def content_of(folder: Path) -> Content:
    """What a folder holds."""
    segments: dict[str, int] = {}
    found = sources([folder])
    for source in found:
        with source.path.open("rb") as file:
            for offset, size in source.spans:
                segments[sha256(os.pread(file.fileno(), size, offset)).hexdigest()] = size
    return Content(folder, {each.artifact: _sha256_of(each.path) for each in found}, segments)


def _sha256_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Evidence:
    """One registry's database and bucket."""

    database_url: str
    store: StoreConfig

    @contextmanager
    def session(self) -> Iterator[Session]:
        database = Database(self.database_url)
        try:
            with database.transaction(read_only=True) as session:
                yield session
        finally:
            database.dispose()

    def versions(self, model: str) -> dict[int, str]:
        """Manifest digest by number, of a model in `default`."""
        with self.session() as session:
            query = select(Version.number, Version.digest).join(Model, Model.id == Version.model_id)
            return {row.number: row.digest for row in session.execute(query.where(Model.name == model))}

    def proofs(self, state: str) -> int:
        """How many versions' proofs are in this state, in the words of the workflow engine."""
        schema = "" if self.database_url.startswith("sqlite") else "dbos."
        query = text(f"SELECT count(*) FROM {schema}workflow_status WHERE workflow_uuid LIKE :id AND status = :state")
        with self.session() as session:
            return int(session.execute(query, {"id": f"{VERIFY}:%", "state": state}).scalar_one())

    def whole(self, content: Content) -> dict[str, int]:
        """The segments of a content that the bucket holds whole, whatever the database says of them."""
        with self.session() as session:
            rows = _objects(session, ("pending", "live"), content.segments)
        seen = Store(self.store).head_many(key for key, *_ in rows)
        return {
            digest: size
            for key, digest, size, _ in rows
            if key in seen and (seen[key].size, seen[key].sha256) == (size, digest)
        }

    def settle(self) -> None:
        """Return once nothing has changed for a while: what was under way when a client died may still end."""
        before, since = self._snapshot(), time.monotonic()
        while time.monotonic() - since < _STILL_S:
            time.sleep(0.05)
            now = self._snapshot()
            if now != before:
                before, since = now, time.monotonic()

    def _snapshot(self) -> object:
        with self.session() as session:
            states = select(StoredObject.state, func.count()).group_by(StoredObject.state).order_by(StoredObject.state)
            rows = _objects(session, ("pending",), None)
            counts = [tuple(row) for row in session.execute(states)]
            events = session.scalars(select(func.count()).select_from(Event)).one()
        return counts, events, sorted(Store(self.store).head_many(key for key, *_ in rows))

    def problems(self) -> list[str]:
        """Everything that is not as it must be at any moment."""
        with self.session() as session:
            live = _objects(session, ("live",), None)
            found = [
                *_half_versions(session),
                *_gaps(session),
                *_broken_chains(session),
                *_unannounced(session),
            ]
        seen = Store(self.store).head_many(key for key, *_ in live)
        for key, digest, size, _ in live:
            held = seen.get(key)
            if held is None or (held.size, held.sha256) != (size, digest):
                found.append(f"{key} is live in the database, and in the bucket {held}")
        return found


def _objects(session: Session, states: Iterable[str], digests: Iterable[str] | None) -> list[tuple[str, str, int, str]]:
    query = (
        select(Segment.namespace_id, Segment.sha256, Segment.size, StoredObject)
        .join(StoredObject, StoredObject.segment_id == Segment.id)
        .where(StoredObject.state.in_(list(states)))
    )
    if digests is not None:
        query = query.where(Segment.sha256.in_(list(digests)))
    return [
        (segment_key(namespace, digest, row.generation, row.codec), digest, size, row.state)
        for namespace, digest, size, row in session.execute(query)
    ]


def _half_versions(session: Session) -> Iterator[str]:
    """Versions whose files, or whose files' segments, are not all there."""
    layouts: dict[int, list[tuple[int, int, int]]] = {}
    query = select(ArtifactSegment, Segment.size).join(Segment, Segment.id == ArtifactSegment.segment_id)
    for row, size in session.execute(query.order_by(ArtifactSegment.artifact_id, ArtifactSegment.position)):
        layouts.setdefault(row.artifact_id, []).append((row.position, row.offset, size))
    live = set(session.scalars(select(StoredObject.segment_id).where(StoredObject.state == "live")))
    for segment_id in set(session.scalars(select(ArtifactSegment.segment_id))) - live:
        yield f"segment {segment_id} is part of a version and not live"
    for version in session.scalars(select(Version).order_by(Version.id)).all():
        artifacts = session.scalars(select(Artifact).where(Artifact.version_id == version.id)).all()
        entries = (ManifestEntry(each.path, each.size, each.sha256, each.media_type) for each in artifacts)
        if manifest_digest(entries) != version.digest or sum(each.size for each in artifacts) != version.size:
            yield f"version {version.number} is not made of its {len(artifacts)} artifacts"
        for artifact in artifacts:
            end = 0
            layout = layouts.get(artifact.id, [])
            for expected, (position, offset, size) in enumerate(layout):
                if (position, offset) != (expected, end):
                    yield f"{artifact.path} of version {version.number} has a hole at {end}"
                end = offset + size
            if (end, len(layout)) != (artifact.size, artifact.segment_count):
                yield f"{artifact.path} of version {version.number} ends at {end} of {artifact.size}"


def _gaps(session: Session) -> Iterator[str]:
    for model in session.scalars(select(Model)).all():
        numbers = session.scalars(select(Version.number).where(Version.model_id == model.id).order_by(Version.number))
        if (found := list(numbers)) != list(range(1, model.last_version + 1)):
            yield f"{model.name} counts to {model.last_version} and has the versions {found}"


def _broken_chains(session: Session) -> Iterator[str]:
    rows = session.scalars(select(Event).order_by(Event.chain, Event.seq)).all()
    heads = {chain.name: (chain.last_seq, chain.last_hash) for chain in session.scalars(select(Chain))}
    for name, group in groupby(rows, lambda row: row.chain):
        events = [
            audit.Event(
                row.chain,
                row.seq,
                row.actor,
                row.action,
                row.subject,
                audit.event_time(row.at),
                row.detail,
                row.previous_hash,
                row.hash,
            )
            for row in group
        ]
        broken = audit.verify(events)
        if broken is not None or heads.get(name) != (events[-1].seq, events[-1].hash):
            yield f"the chain {name} is broken at {broken}, its head is {heads.get(name)}"


def _unannounced(session: Session) -> Iterator[str]:
    """Versions without their one event, and events without their version."""
    published = session.scalars(select(Event.subject).where(Event.action == audit.Action.VERSION_PUBLISH)).all()
    query = (
        select(Namespace.name, Model.name, Version.number)
        .join(Model, Model.id == Version.model_id)
        .join(Namespace, Namespace.id == Model.namespace_id)
    )
    there = [f"{namespace}/{model}:{number}" for namespace, model, number in session.execute(query)]
    if sorted(published) != sorted(there):
        yield f"published were {sorted(published)}, and there are {sorted(there)}"
    committed = set(session.scalars(select(Upload.version_id).where(Upload.version_id.is_not(None))))
    if missing := committed - set(session.scalars(select(Version.id))):
        yield f"uploads were committed as versions {missing} that are not there"
