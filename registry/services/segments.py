"""Segments: which bytes a namespace holds, which it still needs, and what keeps them safe meanwhile.

Asking about a segment, whatever the answer, leases its row: nothing collects it before the lease ends. Presence is a
`live` object. From the first offer of a URL until the whole object has been seen, its object is `pending`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import Select, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry.db.tables import Segment, StoredObject
from registry.domain.digest import format_digest
from registry.domain.errors import InvalidError
from registry.storage.layout import segment_key
from registry.storage.s3 import StoredObject as Seen

Item = TypeVar("Item")

_PARAMETERS = 500
"""Values in one IN list: well under what either database takes."""


class SegmentSizeError(InvalidError):
    """One digest was given with two different sizes."""

    code = "SEGMENT_SIZE_MISMATCH"
    remedy = "Hash and cut the file again: the same bytes cannot have two lengths."


class SegmentsMissingError(InvalidError):
    """Segments were reported or committed that the store does not hold whole."""

    code = "SEGMENTS_MISSING"
    remedy = "Ask for their upload URLs again, send the bytes, and repeat the request."


@dataclass(frozen=True, slots=True)
class Place:
    """Where a segment's bytes are: the row, the object's key, and its state (`pending` or `live`)."""

    segment_id: int
    sha256: str
    size: int
    object_id: int
    key: str
    state: str
    is_new: bool = False
    """The object row was made just now: nobody can have uploaded to its key yet."""

    def as_live(self) -> "Place":
        """The same place after its object was seen whole."""
        return replace(self, state="live", is_new=False)


def ask(
    session: Session, namespace_id: int, wanted: Mapping[str, int], *, lease_s: int, now: datetime
) -> dict[str, Place]:
    """Lease each wanted segment (sha256 to size) for some seconds, and say where it is or is to be put.

    Raises SegmentSizeError.
    """
    until = now + timedelta(seconds=lease_s)
    _insert_missing(session, namespace_id, wanted, until)
    found: dict[str, Place] = {}
    for batch in _batches(sorted(wanted)):
        rows = session.scalars(_rows(namespace_id, batch).with_for_update(of=Segment)).all()
        for row in rows:
            if row.size != wanted[row.sha256]:
                raise SegmentSizeError(f"{format_digest(row.sha256)} is {row.size} bytes, not {wanted[row.sha256]}.")
        _lease(session, [row.id for row in rows], until)
        objects = _current_objects(session, [row.id for row in rows])
        fresh = [_pending(row, now) for row in rows if row.id not in objects]
        session.add_all(fresh)
        session.flush()  # the objects' ids go into the places
        made = {stored.segment_id: stored for stored in fresh}
        for row in rows:
            stored = made.get(row.id) or objects[row.id]
            found[row.sha256] = _place(row, stored, is_new=row.id in made)
    return found


def places(session: Session, namespace_id: int, digests: Iterable[str]) -> dict[str, Place]:
    """Where these segments are, pending or live; unknown ones are absent."""
    found: dict[str, Place] = {}
    for batch in _batches(sorted(set(digests))):
        query = (
            select(Segment, StoredObject)
            .join(StoredObject, StoredObject.segment_id == Segment.id)
            .where(
                Segment.namespace_id == namespace_id,
                Segment.sha256.in_(batch),
                StoredObject.state.in_(("pending", "live")),
            )
        )
        for row, stored in session.execute(query):
            known = found.get(row.sha256)
            if known is None or stored.state == "live":
                found[row.sha256] = _place(row, stored)
    return found


def unseen(wanted: Iterable[Place], seen: Mapping[str, Seen]) -> list[str]:
    """The digests of pending places whose object the store lacks, or holds with another size or sha256."""
    missing = []
    for place in wanted:
        stored = seen.get(place.key)
        if place.state == "pending" and (
            stored is None or stored.size != place.size or stored.sha256 not in (None, place.sha256)
        ):
            missing.append(place.sha256)
    return missing


def mark_live(session: Session, seen: Sequence[Place]) -> None:
    """The store was seen to hold these whole: from now on they are there for everyone in the namespace.

    Another upload may have got there first; at most one object of a segment is live.
    """
    pending = [place for place in seen if place.state == "pending"]
    for batch in _batches([place.object_id for place in sorted(pending, key=lambda place: place.segment_id)]):
        session.execute(
            update(StoredObject)
            .where(StoredObject.id.in_(batch), StoredObject.state == "pending")
            .values(state="live")
            .execution_options(synchronize_session=False)
        )


def live_ids(session: Session, namespace_id: int, wanted: Mapping[str, int]) -> dict[str, int]:
    """Segment ids by sha256 for a commit, each locked and held by a live object.

    Raises SegmentsMissingError naming the absent ones, or SegmentSizeError.
    """
    found: dict[str, int] = {}
    for batch in _batches(sorted(wanted)):
        query = (
            select(Segment.sha256, Segment.id, Segment.size)
            .join(StoredObject, StoredObject.segment_id == Segment.id)
            .where(Segment.namespace_id == namespace_id, Segment.sha256.in_(batch), StoredObject.state == "live")
            .order_by(Segment.sha256)
            .with_for_update(read=True, of=Segment)
        )
        for sha256, segment_id, size in session.execute(query):
            if size != wanted[sha256]:
                raise SegmentSizeError(f"{format_digest(sha256)} is {size} bytes, not {wanted[sha256]}.")
            found[sha256] = segment_id
    check_complete(wanted, found)
    return found


def check_complete(wanted: Iterable[str], found: Iterable[str]) -> None:
    """Raises SegmentsMissingError unless everything wanted was found."""
    missing = sorted(set(wanted) - set(found))
    if missing:
        named = [format_digest(sha256) for sha256 in missing[:1000]]
        raise SegmentsMissingError(
            f"The store does not hold {len(missing)} of the segments, the first being {named[0]}.", digests=named
        )


def _insert_missing(session: Session, namespace_id: int, wanted: Mapping[str, int], until: datetime) -> None:
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    rows = [
        {"namespace_id": namespace_id, "sha256": sha256, "size": size, "leased_until": until, "last_generation": 0}
        for sha256, size in sorted(wanted.items())
    ]
    for batch in _batches(rows):
        session.execute(dialect.insert(Segment).values(batch).on_conflict_do_nothing())


def _rows(namespace_id: int, batch: Sequence[str]) -> Select[Segment]:
    return (
        select(Segment)
        .where(Segment.namespace_id == namespace_id, Segment.sha256.in_(batch))
        .order_by(Segment.sha256)
        .execution_options(populate_existing=True)
    )


def _lease(session: Session, ids: Sequence[int], until: datetime) -> None:
    session.execute(
        update(Segment)
        .where(Segment.id.in_(ids), Segment.leased_until < until)
        .values(leased_until=until)
        .execution_options(synchronize_session=False)
    )


def _current_objects(session: Session, ids: Sequence[int]) -> dict[int, StoredObject]:
    query = select(StoredObject).where(
        StoredObject.segment_id.in_(ids), StoredObject.state.in_(("pending", "live"))
    )  # fmt: skip
    found: dict[int, StoredObject] = {}
    for stored in session.scalars(query):
        if stored.segment_id not in found or stored.state == "live":
            found[stored.segment_id] = stored
    return found


def _pending(row: Segment, now: datetime) -> StoredObject:
    row.last_generation += 1
    return StoredObject(
        segment_id=row.id,
        generation=row.last_generation,
        codec="raw",
        stored_sha256=row.sha256,
        stored_size=row.size,
        state="pending",
        created_at=now,
    )


def _place(row: Segment, stored: StoredObject, *, is_new: bool = False) -> Place:
    key = segment_key(row.namespace_id, row.sha256, stored.generation, stored.codec)
    return Place(row.id, row.sha256, row.size, stored.id, key, stored.state, is_new)


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), _PARAMETERS):
        yield items[start : start + _PARAMETERS]
