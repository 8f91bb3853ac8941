import hashlib
import os

import pytest

from registry.storage.multipart import LEAST, Part, part_size
from registry.storage.s3 import ObjectMissingError, StorageUnavailableError
from registry.storage.transfer import Abort

DATA = os.urandom(5 << 20) * 4
HALF = len(DATA) // 2


@pytest.fixture
def key(request):
    sha256 = hashlib.sha256(request.node.nodeid.encode()).hexdigest()
    return f"ns/9/whole/{sha256[:2]}/{sha256}.1"


@pytest.fixture
def multipart(store):
    return store.multipart


def put_all(multipart, key, data=DATA):
    upload = multipart.begin(key)
    halves = memoryview(data)[:HALF], memoryview(data)[HALF:]
    return upload, [multipart.put(key, upload, number, half, abort=Abort()) for number, half in enumerate(halves, 1)]


def unended(multipart, key):
    return [found.upload_id for found in multipart.unended(key)]


def test_an_object_is_made_of_its_parts(store, multipart, key):
    upload, parts = put_all(multipart, key)
    assert unended(multipart, key) == [upload]
    multipart.complete(key, upload, parts)
    assert store.read(key, 0, len(DATA) + 1) == DATA
    assert unended(multipart, key) == []


def test_an_object_that_is_there_is_not_replaced(store, multipart, key):
    for data in (DATA, DATA[::-1]):
        upload, parts = put_all(multipart, key, data)
        multipart.complete(key, upload, parts)
    assert store.read(key, 0, len(DATA)) == DATA
    assert unended(multipart, key) == []


def test_an_aborted_upload_is_gone_and_aborting_is_repeatable(multipart, key):
    upload, parts = put_all(multipart, key)
    multipart.abort(key, upload)
    multipart.abort(key, upload)
    assert unended(multipart, key) == []
    with pytest.raises(ObjectMissingError):
        multipart.complete(key, upload, parts)


def test_a_part_that_the_store_does_not_have_completes_nothing(store, multipart, key):
    upload, parts = put_all(multipart, key)
    with pytest.raises((StorageUnavailableError, Exception)):
        multipart.complete(key, upload, [*parts, Part(3, '"0"', parts[0].sha256)])
    with pytest.raises(ObjectMissingError):
        store.head(key)
    multipart.abort(key, upload)


@pytest.mark.parametrize("size", [1, LEAST, 160 << 30, 160 << 30 | 1, 5 << 40])
def test_parts_are_never_too_many(size):
    assert part_size(size) >= LEAST
    assert -(-size // part_size(size)) <= 10_000
