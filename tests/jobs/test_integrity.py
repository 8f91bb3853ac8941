import os

import pytest
from sqlalchemy import select, update

from registry.db.tables import Event, Segment, StoredObject, Version
from registry.domain.digest import parse_digest
from registry.services import integrity, proof
from registry.storage.layout import segment_key
from tests.support.proving import work
from tests.support.pushing import cut, digest, push
from tests.support.world import code


@pytest.fixture
def parts(app):
    return app.extensions["registry"]


@pytest.fixture
def data():
    return os.urandom(3000)


def prove(parts):
    """What the worker does after a publication, without its queue."""
    with parts.database.transaction(read_only=True) as session:
        [version_id] = session.scalars(select(Version.id)).all()
    return work(parts, version_id)


def key_of(parts, piece):
    sha256 = parse_digest(digest(piece))
    query = (
        select(Segment.namespace_id, StoredObject.generation)
        .join(StoredObject, StoredObject.segment_id == Segment.id)
        .where(Segment.sha256 == sha256, StoredObject.state == "live")
    )
    with parts.database.transaction(read_only=True) as session:
        namespace_id, generation = session.execute(query).one()
    return segment_key(namespace_id, sha256, generation, "raw")


def flip(parts, piece):
    """Other bytes of the same length under the segment's key, as a failing disk would leave them."""
    wrong = bytes([piece[0] ^ 1]) + piece[1:]
    parts.store.put(key_of(parts, piece), wrong, parse_digest(digest(wrong)))


def state(http):
    return http.get("/models/yolo/versions/1").json["integrity"]


def test_a_version_is_verified_once_its_files_were_read_whole(http, parts, data):
    push(http, "yolo", {"a.bin": data}, size=1000)
    assert state(http) == "unverified"
    assert prove(parts) == []
    assert state(http) == "verified"


def test_a_flipped_byte_marks_the_version_damaged_and_names_artifact_and_offset(http, parts, data):
    push(http, "yolo", {"a.bin": data}, size=1000)
    flip(parts, cut(data, 1000)[1])
    [fault] = prove(parts)
    assert fault.startswith("a.bin: the bytes from offset 1000 are not sha256:")
    assert state(http) == "damaged"
    assert code(http.get("/models/yolo/versions/1/segments?artifact=a.bin")) == (409, "VERSION_DAMAGED")
    assert code(http.get("/models/yolo/versions/1/artifacts/a.bin")) == (409, "VERSION_DAMAGED")


def test_a_lost_object_marks_the_version_damaged(http, parts, data):
    push(http, "yolo", {"a.bin": data}, size=1000)
    parts.store.delete(key_of(parts, cut(data, 1000)[2]))
    assert prove(parts) == ["a.bin: the store has lost the bytes from offset 2000."]
    assert state(http) == "damaged"


def test_every_damaged_segment_is_named(http, parts, data):
    push(http, "yolo", {"a.bin": data}, size=1000)
    for piece in cut(data, 1000)[:2]:
        flip(parts, piece)
    assert len(prove(parts)) == 2


def test_pushing_the_same_files_again_mends_a_damaged_version(http, parts, data):
    push(http, "yolo", {"a.bin": data}, size=1000)
    flip(parts, cut(data, 1000)[1])
    prove(parts)
    again = push(http, "yolo", {"a.bin": data}, size=1000)
    assert (again.sent, again.version["created"], again.version["integrity"]) == (1, False, "unverified")
    assert prove(parts) == []
    assert state(http) == "verified"
    assert http.get("/models/yolo/versions/1/artifacts/a.bin").data == data


def test_another_version_that_shares_the_damaged_segment_gives_no_bytes_either(http, parts, data):
    push(http, "yolo", {"a.bin": data}, size=1000)
    flip(parts, cut(data, 1000)[1])
    prove(parts)
    with parts.database.transaction() as session:
        session.execute(update(Version).values(integrity="verified"))
    refused = http.get("/models/yolo/versions/1/artifacts/a.bin")
    assert code(refused) == (409, "VERSION_DAMAGED")
    assert "offset 1000" in refused.json["detail"]


def test_proving_is_in_the_chain(http, parts, data):
    push(http, "yolo", {"a.bin": data}, size=1000)
    prove(parts)
    prove(parts)  # a worker that died may do it again
    with parts.database.transaction(read_only=True) as session:
        found = session.scalars(select(Event.action).where(Event.action.like("version:%")).order_by(Event.seq)).all()
    assert found == ["version:publish", "version:verify"]


def test_a_store_that_is_down_proves_nothing(http, parts, data):
    from registry.storage.s3 import StorageUnavailableError, Store, StoreConfig

    push(http, "yolo", {"a.bin": data}, size=1000)
    down = Store(StoreConfig("b", "http://127.0.0.1:9", access_key="a", secret_key="b"))
    with parts.database.transaction(read_only=True) as session:
        files = integrity.files_of(session, session.scalars(select(Version.id)).one())
    with pytest.raises(StorageUnavailableError):
        proof.prove(down, files)
    assert state(http) == "unverified"
