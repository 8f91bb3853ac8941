import hashlib
import os
import socket
import threading
import time
from dataclasses import replace

import pytest

from registry.storage.s3 import ObjectMissingError, StorageUnavailableError, Store
from registry.storage.transfer import Abort
from tests.support.faulty_store import error, reset, serving, truncated

DATA = os.urandom(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def key(request, store):
    key = f"ns/9/bb/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()}.1.raw"
    store.put(key, DATA, SHA256)
    return key


@pytest.fixture
def faulty(store, monkeypatch):
    """A store that holds DATA under its sha256, and fails by script."""
    monkeypatch.setattr("registry.storage.s3._PAUSES", (0.01, 0.01))
    with serving() as stand_in:
        stand_in.add(DATA)
        yield stand_in, Store(replace(store.config, endpoint_url=stand_in.address))


def read(store, key, size, offset=0, abort=None):
    view = memoryview(bytearray(size))
    store.read_into(key, view, offset=offset, abort=abort)
    return bytes(view)


@pytest.mark.parametrize(
    ("offset", "size"), [(0, len(DATA)), (1000, 7), (len(DATA) - 3, 3), (1, len(DATA) - 1), (5, 0)]
)
def test_a_view_is_filled_with_exactly_the_range(store, key, offset, size):
    assert read(store, key, size, offset) == DATA[offset : offset + size]


@pytest.mark.parametrize(("offset", "size"), [(0, len(DATA) + 1), (len(DATA) - 3, 4), (len(DATA), 1)])
def test_an_object_that_ends_too_soon_is_missing(store, key, offset, size):
    with pytest.raises(ObjectMissingError):
        read(store, key, size, offset)


def test_an_object_that_is_not_there_is_missing(store):
    with pytest.raises(ObjectMissingError) as caught:
        read(store, f"ns/9/bb/{'b' * 64}.1.raw", 1)
    assert caught.value.details["key"] == f"ns/9/bb/{'b' * 64}.1.raw"


def test_threads_keep_connections_and_share_them(store, key):
    fresh = Store(store.config)
    for _ in range(3):
        threads = [threading.Thread(target=read, args=(fresh, key, 1000)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 1 <= len(fresh._transfers._idle) <= 4


def test_a_kept_connection_that_the_store_closed_is_replaced(store, key):
    read(store, key, 10)
    store._transfers._idle[-1].sock.shutdown(socket.SHUT_RDWR)
    assert read(store, key, 10) == DATA[:10]


@pytest.mark.parametrize("fault", [error(500), error(503, "SlowDown"), reset, truncated])
def test_a_failure_that_passes_is_not_noticed(faulty, fault):
    stand_in, store = faulty
    stand_in.faults[SHA256] = [fault, fault]
    assert read(store, SHA256, len(DATA)) == DATA


@pytest.mark.parametrize("fault", [error(500), error(403, "AccessDenied"), reset, truncated])
def test_a_failure_that_stays_is_an_unavailable_store(faulty, fault):
    stand_in, store = faulty
    stand_in.faults[SHA256] = [fault] * 9
    with pytest.raises(StorageUnavailableError):
        read(store, SHA256, len(DATA))


def test_no_error_contains_a_signature(faulty):
    stand_in, store = faulty
    stand_in.faults[SHA256] = [error(403, "AccessDenied")]
    with pytest.raises(StorageUnavailableError) as caught:
        read(store, SHA256, 1)
    assert "Signature" not in f"{caught.value} {caught.value.__cause__!r}"


def test_a_transfer_that_waits_is_given_up_at_once(faulty):
    stand_in, store = faulty
    stand_in.hold = True
    abort, ended = Abort(), []

    def wait():
        with pytest.raises(ConnectionAbortedError):
            read(store, SHA256, 10, abort=abort)
        ended.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    while not stand_in.requests:
        time.sleep(0.01)
    began = time.monotonic()
    abort.set()
    thread.join(5)
    assert ended[0] - began < 1
    with pytest.raises(ConnectionAbortedError):
        read(store, SHA256, 10, abort=abort)
