import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry.client import _workers
from registry.client._hashing import FileChangedError, UnreadableFileError, hash_file
from registry.client._http import NoRoomError, StorageRefusedError, StorageUnreachableError
from registry.client._upload import Put, upload
from registry.storage.s3 import Store as Bucket
from registry.storage.s3 import StoreConfig
from tests.support.faulty_store import Store, error, reset, serving

SIZE, SEGMENT = (5 << 20) + 17, 1 << 20


@pytest.fixture
def store() -> Iterator[Store]:
    with serving() as found:
        yield found


@pytest.fixture
def puts(store: Store, tmp_path: Path) -> list[Put]:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(SIZE))
    spans = [(offset, min(SEGMENT, SIZE - offset)) for offset in range(0, SIZE, SEGMENT)]
    return [
        Put(path, piece.offset, piece.size, piece.sha256, store.sign(piece.sha256), {"If-None-Match": "*"})
        for piece in hash_file(path, spans).pieces
    ]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workers, "ATTEMPTS", 2)


def never(put: Put) -> Put:
    raise AssertionError(put)


def test_every_segment_arrives_byte_for_byte(store, puts):
    report = upload(puts, refresh=never)
    data = puts[0].path.read_bytes()
    assert {put.sha256: data[put.offset : put.offset + put.size] for put in puts} == store.objects
    assert (report.sent, report.sent_bytes, report.present) == (6, SIZE, 0)


def test_connections_are_kept(store, puts):
    upload(puts, refresh=never, threads=2)
    assert store.connections == 2


def test_a_segment_that_is_there_already_is_fine(store, puts):
    upload(puts[:2], refresh=never)
    report = upload(puts, refresh=never)
    assert (report.sent, report.present) == (4, 2)


def test_callbacks_run_in_the_calling_thread_once_a_segment(puts):
    threads: set[int] = set()
    told: list[int] = []
    finished: list[Put] = []

    def done(put: Put) -> None:
        threads.add(threading.get_ident())
        finished.append(put)

    upload(puts, refresh=never, done=done, progress=told.append)
    assert threads == {threading.get_ident()}
    assert sorted(finished, key=lambda put: put.offset) == puts
    assert sum(told) == SIZE


def test_urls_are_asked_for_while_uploads_run(store, puts):
    sent_when_the_last_was_asked_for: list[int] = []

    def lazily() -> Iterator[Put]:
        yield from puts[:-1]
        deadline = time.monotonic() + 10
        while not store.objects and time.monotonic() < deadline:
            time.sleep(0.01)
        sent_when_the_last_was_asked_for.append(len(store.objects))
        yield puts[-1]

    upload(lazily(), refresh=never)
    assert sent_when_the_last_was_asked_for[0] > 0


def test_an_expired_url_is_signed_anew(store, puts):
    store.expired.add(puts[1].url.partition("?")[2])
    asked: list[Put] = []

    def refresh(put: Put) -> Put:
        asked.append(put)
        return replace(put, url=store.sign(put.sha256))

    assert upload(puts, refresh=refresh).sent == 6
    assert asked == [puts[1]]


def test_a_signature_that_is_never_good_is_refused(store, puts):
    store.faults[puts[1].sha256] = [error(403, "SignatureDoesNotMatch")] * 9
    with pytest.raises(StorageRefusedError, match="403 SignatureDoesNotMatch") as caught:
        upload(puts, refresh=lambda put: put)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "fault", [reset, error(500, "InternalError"), error(503, "SlowDown", Retry_After="0"), error(429), error(409)]
)
def test_what_passes_by_itself_is_tried_again(store, puts, fault):
    store.faults[puts[2].sha256] = [fault, fault]
    assert upload(puts, refresh=never).sent == 6
    assert len(store.objects) == 6


def test_a_store_that_stays_away_is_named_without_its_signature(store, puts, impatient):
    store.faults[puts[2].sha256] = [error(503, "SlowDown")] * 9
    with pytest.raises(StorageUnreachableError, match="503 SlowDown") as caught:
        upload(puts, refresh=never)
    assert "secret" not in str(caught.value)


def test_nothing_listening_is_a_store_out_of_reach(puts, impatient):
    with pytest.raises(StorageUnreachableError, match="ConnectionRefusedError"):
        upload([replace(put, url="http://127.0.0.1:9/bucket/key?X-Signature=secret") for put in puts], refresh=never)


@pytest.mark.parametrize("fault", [error(507), error(400, "InsufficientStorage"), error(403, "QuotaExceeded")])
def test_a_full_store_is_said_to_be_full(store, puts, fault):
    store.faults[puts[0].sha256] = [fault]
    with pytest.raises(NoRoomError, match=r"weights\.bin"):
        upload(puts, refresh=never)


def test_any_other_refusal_names_the_stores_code(store, puts):
    store.faults[puts[0].sha256] = [error(400, "MalformedThing")]
    with pytest.raises(StorageRefusedError, match="400 MalformedThing"):
        upload(puts, refresh=never)


def test_bytes_the_store_found_wrong_are_sent_again_if_the_file_is_the_same(store, puts):
    store.faults[puts[0].sha256] = [error(400, "BadDigest")]
    assert upload(puts, refresh=never).sent == 6


def test_bytes_the_store_found_wrong_in_a_changed_file_say_so(store, puts):
    with puts[0].path.open("r+b") as file:
        file.write(b"other bytes")
    store.faults[puts[0].sha256] = [error(400, "BadDigest")]
    with pytest.raises(FileChangedError, match=r"weights\.bin"):
        upload(puts, refresh=never)


def test_a_file_cut_short_meanwhile_has_changed(puts):
    os.truncate(puts[0].path, SEGMENT)
    with pytest.raises(FileChangedError):
        upload(puts, refresh=never)


def test_a_file_that_vanished_is_named(puts):
    puts[0].path.unlink()
    with pytest.raises(UnreadableFileError, match=r"weights\.bin"):
        upload(puts, refresh=never)


def test_the_first_failure_stops_the_rest_at_once(store, puts):
    store.faults[puts[0].sha256] = [error(400, "MalformedThing")]
    for put in puts[1:]:
        store.faults[put.sha256] = [error(503, "SlowDown", Retry_After="30")] * 9
    started = time.monotonic()
    with pytest.raises(StorageRefusedError):
        upload(puts, refresh=never)
    assert time.monotonic() - started < 5


def test_an_interrupt_wakes_threads_that_wait_for_the_store(store, puts):
    store.hold = True
    started = time.monotonic()

    def interrupted() -> Iterator[Put]:
        yield from puts
        deadline = time.monotonic() + 10
        while len(store.requests) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload(interrupted(), refresh=never)
    assert time.monotonic() - started < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "registry-transfer"]


def test_a_failing_callback_stops_the_upload(puts):
    def done(put: Put) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        upload(puts, refresh=never, done=done)


@pytest.fixture
def signed(s3_config: StoreConfig, puts: list[Put]) -> list[Put]:
    return [resign(s3_config, put) for put in puts]


def resign(config: StoreConfig, put: Put) -> Put:
    found = Bucket(config).presign_put(f"push/{put.sha256}", sha256=put.sha256, size=put.size, expires=60)
    return replace(put, url=found.url, headers=found.headers)


def test_a_real_store_takes_every_segment_once_and_knows_its_sha256(s3_config, signed):
    first, second = upload(signed, refresh=never), upload(signed, refresh=never)
    assert (first.sent, first.present) == (6, 0)
    assert (second.sent, second.present) == (0, 6)
    found = Bucket(s3_config).head(f"push/{signed[0].sha256}")
    assert (found.sha256, found.size) == (signed[0].sha256, signed[0].size)


def test_a_real_store_refuses_a_file_that_changed_after_it_was_hashed(signed):
    with signed[0].path.open("r+b") as file:
        file.write(b"other bytes")
    with pytest.raises(FileChangedError):
        upload(signed, refresh=never)


def test_a_put_url_that_really_expired_is_signed_anew(s3_config, signed):
    put = signed[0]
    found = Bucket(s3_config).presign_put(f"expiry/{put.sha256}", sha256=put.sha256, size=put.size, expires=1)
    time.sleep(2.1)
    stale = replace(put, url=found.url, headers=found.headers)
    assert upload([stale], refresh=lambda put: resign(s3_config, put)).sent == 1
