import hashlib
import itertools
import os
import threading
import time
from dataclasses import replace

import pytest

from registry.domain.errors import VersionDamagedError
from registry.storage import streaming
from registry.storage.s3 import ObjectMissingError, StorageUnavailableError, Store
from registry.storage.streaming import Piece, read_ahead
from tests.support.faulty_store import error, serving

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(streaming, "WINDOW", 1000)
    monkeypatch.setattr("registry.storage.s3._PAUSES", (0.01, 0.01))


@pytest.fixture
def objects(store):
    """Stores byte strings and gives a piece for each, whole and to be checked."""

    def stored(*contents, lie=False):
        pieces = []
        for data in contents:
            key = f"ns/9/cc/{next(_numbers):064x}.1.raw"
            store.put(key, data, hashlib.sha256(data).hexdigest())
            pieces.append(Piece(key, 0, len(data), hashlib.sha256(data + b"!" * lie).hexdigest()))
        return pieces

    return stored


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_pieces_come_in_order_whatever_their_sizes(store, objects):
    contents = [os.urandom(size) for size in (1, 999, 1000, 1001, 7, 12_345, 3)]
    assert b"".join(map(bytes, read_ahead(store, objects(*contents)))) == b"".join(contents)
    assert readers() == []


def test_a_part_of_an_object_is_read_and_nothing_beside_it(store, objects):
    [piece] = objects(bytes(range(256)) * 40)
    assert (
        b"".join(map(bytes, read_ahead(store, [replace(piece, offset=300, size=2500, sha256=None)])))
        == (bytes(range(256)) * 40)[300:2800]
    )


def test_nothing_is_read_of_nothing(store):
    assert list(read_ahead(store, [])) == []


def test_no_more_is_read_ahead_than_the_buffers_take(store, objects, monkeypatch):
    asked = []
    read_into = Store.read_into

    def counted(*arguments, **more):
        asked.append(arguments)
        read_into(*arguments, **more)

    monkeypatch.setattr(Store, "read_into", counted)
    views = read_ahead(store, objects(*[b"x" * 10] * 20))
    next(views)
    time.sleep(0.2)
    assert len(asked) == streaming.READERS + 1
    views.close()


@pytest.mark.parametrize("size", [500, 1000, 5500])
def test_wrong_bytes_never_come_out_whole(store, objects, size):
    good, bad = objects(b"a" * 2000), objects(b"b" * size, lie=True)
    taken = bytearray()
    with pytest.raises(VersionDamagedError) as caught:
        taken.extend(byte for view in read_ahead(store, good + bad + good) for byte in view)
    assert caught.value.details["key"] == bad[0].key
    assert len(taken) < 2000 + size
    assert readers() == []


def test_a_lost_object_ends_the_stream(store, objects):
    pieces = objects(b"a" * 2000)
    lost = Piece(f"ns/9/cc/{'c' * 64}.1.raw", 0, 10)
    views = read_ahead(store, [*pieces, lost])
    with pytest.raises(ObjectMissingError):
        list(views)
    assert readers() == []


def test_a_store_that_fails_in_the_middle_ends_the_stream(store):
    with serving() as stand_in:
        first, second = stand_in.add(b"a" * 1000), stand_in.add(b"b" * 1000)
        stand_in.faults[second] = [error(500)] * 9
        failing = Store(replace(store.config, endpoint_url=stand_in.address))
        views = read_ahead(failing, [Piece(first, 0, 1000), Piece(second, 0, 1000)])
        assert bytes(next(views)) == b"a" * 1000
        with pytest.raises(StorageUnavailableError):
            next(views)


def test_closing_ends_threads_that_wait_for_the_store(store):
    with serving() as stand_in:
        first = stand_in.add(b"a" * 10)
        held = Store(replace(store.config, endpoint_url=stand_in.address))
        views = read_ahead(held, [Piece(first, 0, 10)] * 9)
        next(views)
        stand_in.hold = True
        next(views)
        until = time.monotonic() + 5
        while len(stand_in.requests) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        began = time.monotonic()
        views.close()
        assert time.monotonic() - began < 1
        assert readers() == []
