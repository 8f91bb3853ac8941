import hashlib
import http.client
import os
import socket
import threading
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from registry.storage.s3 import ObjectMissingError, StorageUnavailableError, Store, StoreConfig

DATA = os.urandom(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(s3_config: StoreConfig):
    return Store(s3_config)


@pytest.fixture
def key(request):
    return f"ns/9/aa/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()}.1.raw"


@pytest.fixture
def closed():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Store(StoreConfig("weights", f"http://127.0.0.1:{port}", access_key="a", secret_key="b"))


def test_what_was_put_is_read_back_by_range(store, key):
    store.put(key, DATA, SHA256)
    assert store.read(key, 0, len(DATA)) == DATA
    assert store.read(key, 1_000, 7) == DATA[1_000:1_007]
    assert store.read(key, len(DATA) - 3, 100) == DATA[-3:]
    assert store.read(key, len(DATA), 1) == b""
    assert store.read(key, 5, 0) == b""


def test_head_tells_size_and_checksum(store, key):
    store.put(key, DATA, SHA256)
    stored = store.head(key)
    assert (stored.size, stored.sha256) == (len(DATA), SHA256)


def test_head_knows_no_checksum_where_the_store_keeps_none(store, key):
    store._client.put_object(Bucket=store.config.bucket, Key=key, Body=DATA)
    assert store.head(key).sha256 is None


def test_a_multipart_checksum_is_not_taken_for_the_sha256(store, key):
    bucket, client = store.config.bucket, store._client
    upload = client.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm="SHA256")["UploadId"]
    part = client.upload_part(
        Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=DATA, ChecksumAlgorithm="SHA256"
    )
    parts = [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}]
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    stored = store.head(key)
    assert stored.size == len(DATA)
    assert stored.sha256 is None


def test_many_heads_leave_out_what_is_missing(store, key):
    store.put(key, DATA, SHA256)
    wanted = [key, *(f"{key}.{number}" for number in range(30)), key]
    assert set(store.head_many(wanted)) == {key}
    assert store.head_many([]) == {}


def test_a_missing_object_is_missing_in_every_request(store, key):
    for ask in (
        lambda: store.head(key),
        lambda: store.read(key, 0, 1),
        lambda: store.copy(key, f"{key}.copy"),
    ):
        with pytest.raises(ObjectMissingError) as caught:
            ask()
        assert caught.value.code == "OBJECT_MISSING"
        assert caught.value.details["key"] == key


def test_deleting_is_repeatable(store, key):
    store.put(key, DATA, SHA256)
    store.delete(key)
    store.delete(key)
    with pytest.raises(ObjectMissingError):
        store.head(key)


def test_a_copy_inside_the_store_keeps_bytes_and_checksum(store, key):
    store.put(key, DATA, SHA256)
    store.copy(key, f"{key}.copy")
    assert store.head(f"{key}.copy").sha256 == SHA256
    assert store.read(f"{key}.copy", 0, len(DATA)) == DATA


def test_a_copy_outlives_its_source(store, key):
    store.put(key, DATA, SHA256)
    store.copy(key, f"{key}.copy")
    store.delete(key)
    assert store.read(f"{key}.copy", 0, len(DATA)) == DATA


def test_a_copy_never_replaces_what_is_there(store, key):
    store.put(key, DATA, SHA256)
    store.put(f"{key}.copy", b"kept", hashlib.sha256(b"kept").hexdigest())
    store.copy(key, f"{key}.copy")
    assert store.read(f"{key}.copy", 0, 9) == b"kept"


def test_of_many_uploads_of_one_key_one_wins(store, key):
    signed = store.presign_put(key, sha256=SHA256, size=len(DATA), expires=60)
    parts, statuses = urlsplit(signed.url), []

    def upload():
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        connection.request("PUT", f"{parts.path}?{parts.query}", body=DATA, headers=signed.headers)
        statuses.append(connection.getresponse().status)
        connection.close()

    racers = [threading.Thread(target=upload) for _ in range(12)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 409, 412}
    assert store.head(key).sha256 == SHA256


def test_a_store_that_is_down_is_unavailable_in_every_request(closed):
    for ask in (
        closed.ping,
        closed.ensure_bucket,
        lambda: closed.head("k"),
        lambda: closed.head_many(["k"]),
        lambda: closed.read("k", 0, 1),
        lambda: closed.copy("k", "l"),
        lambda: closed.put("k", b"", hashlib.sha256(b"").hexdigest()),
        lambda: closed.delete("k"),
    ):
        with pytest.raises(StorageUnavailableError) as caught:
            ask()
        assert caught.value.code == "STORAGE_UNAVAILABLE"


def test_signing_needs_no_store(closed):
    assert closed.presign_get("k", expires=60).startswith(closed.config.endpoint_url)


def test_ping_is_honest_about_the_bucket_and_the_keys(store):
    store.ping()
    with pytest.raises(StorageUnavailableError, match="absent"):
        Store(replace(store.config, bucket="absent-bucket")).ping()
    with pytest.raises(StorageUnavailableError):
        Store(replace(store.config, secret_key="wrong")).ping()


def test_a_bucket_is_made_once(store):
    fresh = Store(replace(store.config, bucket=f"{store.config.bucket}-more"))
    fresh.ensure_bucket()
    fresh.ensure_bucket()
    fresh.ping()


def test_a_store_that_hangs_up_in_the_middle_is_unavailable(store, key):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)

        def answer_half():
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                peer.recv(65_536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
                peer.close()

        thread = threading.Thread(target=answer_half, daemon=True)
        thread.start()
        broken = Store(replace(store.config, endpoint_url=f"http://127.0.0.1:{listener.getsockname()[1]}"))
        with pytest.raises(StorageUnavailableError):
            broken.read(key, 0, 1000)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
