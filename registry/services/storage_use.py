"""What versions add up to, and what the object store holds for them."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.db.tables import Model, Segment, StoredObject, Version, WholeObject
from registry.domain.access import Permission
from registry.services import namespaces
from registry.services.actors import Actor


@dataclass(frozen=True, slots=True)
class StorageUse:
    """`logical_bytes`: the files of all ready versions. The rest is what is kept for them, once a namespace.

    `stored_bytes` and `objects` are of segments. What is kept whole beside them, while it is on a stage, counts apart.
    """

    logical_bytes: int
    stored_bytes: int
    objects: int
    segments: int
    whole_bytes: int = 0
    whole_objects: int = 0


def measure(session: Session, actor: Actor, namespace: str | None) -> StorageUse:
    """The use of one namespace, or for an administrator of the whole registry.

    Raises NamespaceNotFoundError or PermissionDeniedError.
    """
    logical = select(func.coalesce(func.sum(Version.size), 0)).where(Version.state == "ready")
    stored = select(func.coalesce(func.sum(StoredObject.stored_size), 0), func.count()).where(
        StoredObject.state == "live"
    )
    whole = select(func.coalesce(func.sum(WholeObject.size), 0), func.count()).where(WholeObject.state == "live")
    segments = select(func.count()).select_from(Segment)
    if namespace is None:
        actor.check_administrator(Permission.STORAGE_READ)
    else:
        actor.check_namespace(Permission.STORAGE_READ, namespace)
        found = namespaces.find(session, actor, namespace)
        logical = logical.join(Model, Model.id == Version.model_id).where(Model.namespace_id == found.id)
        stored = stored.join(Segment, Segment.id == StoredObject.segment_id).where(Segment.namespace_id == found.id)
        whole = whole.where(WholeObject.namespace_id == found.id)
        segments = segments.where(Segment.namespace_id == found.id)
    stored_bytes, objects = session.execute(stored).one()
    whole_bytes, whole_objects = session.execute(whole).one()
    return StorageUse(
        logical_bytes=int(session.scalars(logical).one()),
        stored_bytes=int(stored_bytes),
        objects=objects,
        segments=session.scalars(segments).one(),
        whole_bytes=int(whole_bytes),
        whole_objects=whole_objects,
    )
