import pytest
from sqlalchemy import select

from registry.db.tables import Model, Namespace, Segment, StoredObject, Version
from registry.services import storage_use
from registry.services.actors import NamespaceNotFoundError, PermissionDeniedError
from registry.services.storage_use import StorageUse
from tests.support.world import T0


@pytest.fixture
def filled(session, make_actor):
    """Two namespaces; one byte string is known in both, and so kept twice."""
    make_actor("ana", "reader", "vision")
    make_actor("bea", "reader", "audio")
    for name, sizes in {"vision": (100, 40), "audio": (7,)}.items():
        namespace = session.scalars(select(Namespace).where(Namespace.name == name)).one()
        model = Model(namespace=namespace, name="m", folded="m", created_by="ana", created_at=T0)
        session.add(model)
        for number, (state, size) in enumerate([("ready", sizes[0]), ("ready", sizes[0]), ("trashed", 1000)], start=1):
            session.add(
                Version(
                    model=model,
                    number=number,
                    digest="a" * 64,
                    push_key="b" * 64,
                    kind="release",
                    state=state,
                    trashed_at=T0 if state == "trashed" else None,
                    size=size,
                    params={},
                    class_names=[],
                    created_by="ana",
                    created_at=T0,
                )
            )
        for number, size in enumerate(sizes):
            segment = Segment(namespace_id=namespace.id, sha256=f"{number:064x}", size=size, leased_until=T0)
            session.add(segment)
            session.flush()
            for generation, state in enumerate(["condemned", "pending", "live"]):
                session.add(
                    StoredObject(
                        segment_id=segment.id,
                        generation=generation,
                        stored_sha256="c" * 64,
                        stored_size=size,
                        state=state,
                        created_at=T0,
                    )
                )
    session.flush()


def test_ready_versions_count_whole_and_live_objects_once(session, admin, make_actor, filled):
    vision = StorageUse(logical_bytes=200, stored_bytes=140, objects=2, segments=2)
    assert storage_use.measure(session, make_actor("ana"), "Vision") == vision
    assert storage_use.measure(session, make_actor("bea"), "audio") == StorageUse(14, 7, 1, 1)
    assert storage_use.measure(session, admin, None) == StorageUse(214, 147, 3, 3)


def test_an_empty_registry_uses_nothing(session, admin):
    assert storage_use.measure(session, admin, None) == StorageUse(0, 0, 0, 0)
    assert storage_use.measure(session, admin, "default") == StorageUse(0, 0, 0, 0)


def test_the_whole_registry_is_for_administrators_and_a_namespace_for_those_with_a_role(session, make_actor, filled):
    ana = make_actor("ana")
    with pytest.raises(PermissionDeniedError):
        storage_use.measure(session, ana, None)
    with pytest.raises(NamespaceNotFoundError):
        storage_use.measure(session, ana, "audio")
