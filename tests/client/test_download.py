import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from registry.client import _workers
from registry.client._download import BadLayoutError, DamagedBytesError, fetch_file, fetch_into
from registry.client._hashing import Piece
from registry.client._http import StorageRefusedError, StorageUnreachableError
from registry.client._local import LocalSegments
from registry.client._partfile import DiskFullError, PartFile, TargetBusyError, UnwritableFileError
from registry.storage.s3 import Store as Bucket
from registry.storage.s3 import StoreConfig
from tests.support.faulty_store import Store, error, flipped, longer, reset, serving, truncated

SIZES = [3, (1 << 20) + 1, 2 << 20, 700_000, 1, 65_536]
SIZE = sum(SIZES)


@pytest.fixture
def store() -> Iterator[Store]:
    with serving() as found:
        yield found


def publish(store: Store, data: bytes, sizes: Sequence[int]) -> list[Piece]:
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return [Piece(start, end - start, store.add(data[start:end])) for start, end in pairwise(ends)]


@pytest.fixture
def data() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def pieces(store: Store, data: bytes) -> list[Piece]:
    return publish(store, data, SIZES)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "weights.bin"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workers, "ATTEMPTS", 2)


def no_urls(wanted: Sequence[Piece]) -> Mapping[str, str]:
    raise AssertionError(wanted)


def part_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_arrives_byte_for_byte_and_leaves_nothing_beside_it(store, data, pieces, target, durable):
    told: list[int] = []
    report = fetch_file(target, pieces, store.sign_each, size=SIZE, durable=durable, progress=told.append)
    assert target.read_bytes() == data
    assert [path.name for path in target.parent.iterdir()] == ["weights.bin"]
    assert (report.fetched_bytes, report.reused_bytes, report.resumed_bytes) == (SIZE, 0, 0)
    assert sum(told) == SIZE


def test_an_existing_file_is_replaced_in_one_step(store, data, pieces, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    with target.open("rb") as old:
        fetch_file(target, pieces, store.sign_each, size=SIZE)
        assert old.read() == b"old"
    assert target.read_bytes() == data


def test_an_empty_file_needs_no_request(target):
    fetch_file(target, [], no_urls, size=0)
    assert target.read_bytes() == b""


def test_connections_are_kept(store, pieces, target):
    fetch_file(target, pieces, store.sign_each, size=SIZE, threads=2)
    assert store.connections == 2


def test_equal_segments_are_fetched_once(store, target):
    block = os.urandom(100_000)
    pieces = publish(store, block * 3, [100_000] * 3)
    told: list[int] = []
    report = fetch_file(target, pieces, store.sign_each, size=300_000, progress=told.append)
    assert target.read_bytes() == block * 3
    assert (len(store.requests), report.fetched_bytes, sum(told)) == (1, 100_000, 300_000)


@pytest.mark.parametrize(
    "fault", [truncated, reset, error(500), error(503, "SlowDown", Retry_After="0"), error(429), flipped, longer]
)
def test_one_bad_answer_is_made_good_by_another_attempt(store, data, pieces, target, fault):
    store.faults[pieces[2].sha256] = [fault]
    fetch_file(target, pieces, store.sign_each, size=SIZE)
    assert target.read_bytes() == data


def test_a_flipped_byte_fails_closed_and_names_artifact_and_offset(store, pieces, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    store.faults[pieces[2].sha256] = [flipped] * 9
    with pytest.raises(DamagedBytesError, match=r"1,048,580 .* of weights\.bin") as caught:
        fetch_file(target, pieces, store.sign_each, size=SIZE)
    assert caught.value.details["artifact"] == "weights.bin"
    assert caught.value.details["offset"] == pieces[2].offset
    assert store.requests.count(f"GET {pieces[2].sha256}") == 2
    assert target.read_bytes() == b"old"


def test_a_body_that_is_always_short_is_a_store_out_of_reach(store, pieces, target, impatient):
    store.faults[pieces[2].sha256] = [truncated] * 9
    with pytest.raises(StorageUnreachableError, match="TruncatedError") as caught:
        fetch_file(target, pieces, store.sign_each, size=SIZE)
    assert "secret" not in str(caught.value)
    assert not target.exists()


def test_expired_urls_are_signed_anew_and_the_pull_goes_on(store, data, pieces, target):
    signings: list[int] = []

    def brief(wanted: Sequence[Piece]) -> Mapping[str, str]:
        signings.append(len(wanted))
        urls = {piece.sha256: store.sign(piece.sha256) for piece in wanted}
        if len(signings) == 1:
            store.expired |= {url.partition("?")[2] for url in list(urls.values())[2:]}
        return urls

    fetch_file(target, pieces, brief, size=SIZE, threads=1)
    assert target.read_bytes() == data
    assert 2 <= len(signings) <= 5


@pytest.mark.parametrize(
    "fault", [error(400, "ExpiredToken"), error(401), error(403, "AccessDenied"), error(404, "NoSuchKey")]
)
def test_whatever_a_vendor_calls_an_expired_url_a_fresh_one_is_asked_for(store, data, pieces, target, fault):
    store.faults[pieces[1].sha256] = [fault]
    fetch_file(target, pieces, store.sign_each, size=SIZE)
    assert target.read_bytes() == data


def test_an_object_that_stays_missing_is_an_error(store, pieces, target):
    del store.objects[pieces[1].sha256]
    with pytest.raises(StorageRefusedError, match="404 NoSuchKey") as caught:
        fetch_file(target, pieces, store.sign_each, size=SIZE)
    assert "secret" not in str(caught.value)


def test_an_interrupted_pull_fetches_only_the_rest(store, data, pieces, target):
    store.faults[pieces[2].sha256] = [error(418)]
    with pytest.raises(StorageRefusedError):
        fetch_file(target, pieces, store.sign_each, size=SIZE, threads=1)
    assert not target.exists()
    assert part_of(target).exists()
    store.requests.clear()
    told: list[int] = []
    report = fetch_file(target, pieces, store.sign_each, size=SIZE, progress=told.append)
    assert target.read_bytes() == data
    assert report.resumed_bytes == SIZES[0] + SIZES[1]
    assert report.resumed_bytes + report.fetched_bytes == sum(told) == SIZE
    assert not {pieces[0].sha256, pieces[1].sha256} & {line.split()[1] for line in store.requests}


def test_a_part_file_is_not_believed(store, data, pieces, target):
    target.parent.mkdir()
    part_of(target).write_bytes(data[: SIZES[0]] + os.urandom(2 * SIZE))
    report = fetch_file(target, pieces, store.sign_each, size=SIZE)
    assert target.read_bytes() == data
    assert report.resumed_bytes == SIZES[0]


def test_a_part_file_that_is_a_link_is_not_followed(store, pieces, target, tmp_path):
    target.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    part_of(target).symlink_to(victim)
    with pytest.raises(UnwritableFileError):
        fetch_file(target, pieces, store.sign_each, size=SIZE)
    assert victim.read_bytes() == b"mine"


def test_segments_at_hand_are_copied_not_fetched(store, data, pieces, target, tmp_path):
    older = tmp_path / "older.bin"
    older.write_bytes(b"shift" + data[pieces[1].offset : pieces[3].offset])
    known = LocalSegments()
    known.add(older, [Piece(5, SIZES[1], pieces[1].sha256), Piece(5 + SIZES[1], SIZES[2], pieces[2].sha256)])
    report = fetch_file(target, pieces, store.sign_each, size=SIZE, reuse=known)
    assert target.read_bytes() == data
    assert report.reused_bytes == SIZES[1] + SIZES[2]
    assert report.fetched_bytes + report.reused_bytes == SIZE
    assert older.read_bytes()[:5] == b"shift"


def test_the_target_itself_may_be_what_is_reused(store, data, pieces, target):
    target.parent.mkdir()
    target.write_bytes(data[:-1] + b"?")
    known = LocalSegments()
    known.add(target, pieces)
    report = fetch_file(target, pieces, store.sign_each, size=SIZE, reuse=known)
    assert target.read_bytes() == data
    assert report.fetched_bytes == SIZES[-1]


@pytest.fixture(params=["in_kernel", "here"])
def copying(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "here":
        monkeypatch.delattr(os, "copy_file_range", raising=False)


@pytest.fixture(params=["short", "other"])
def liar(request: pytest.FixtureRequest, tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "liar.bin"
    path.write_bytes(bytes(255 - byte for byte in data) if request.param == "other" else b"")
    return path


@pytest.mark.usefixtures("copying")
def test_a_place_that_holds_other_bytes_is_forgotten_and_the_store_is_asked(store, data, pieces, target, liar):
    known = LocalSegments()
    known.add(liar, pieces)
    known.add(liar.with_name("absent"), pieces)
    report = fetch_file(target, pieces, store.sign_each, size=SIZE, reuse=known)
    assert target.read_bytes() == data
    assert (report.reused_bytes, len(known)) == (0, 0)


@pytest.mark.usefixtures("copying")
def test_with_and_without_help_from_the_kernel_segments_are_copied(data, pieces, target, tmp_path):
    older = tmp_path / "older.bin"
    older.write_bytes(data)
    known = LocalSegments()
    known.add(older, pieces)
    assert fetch_file(target, pieces, no_urls, size=SIZE, reuse=known).reused_bytes == SIZE
    assert target.read_bytes() == data


def hold_part(target: Path, ready: "multiprocessing.synchronize.Event", leave: "multiprocessing.synchronize.Event"):
    with PartFile(target, 10, durable=False):
        ready.set()
        leave.wait(30)


def test_a_second_process_pulling_into_the_same_file_is_refused(store, pieces, target):
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=hold_part, args=(target, ready, leave))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(TargetBusyError, match=r"weights\.bin"):
            fetch_file(target, pieces, store.sign_each, size=SIZE)
    finally:
        leave.set()
        other.join()
    fetch_file(target, pieces, store.sign_each, size=SIZE)


@pytest.mark.skipif(not Path("/dev/full").exists() or os.getuid() != 0, reason="mounts a small filesystem")
def test_a_full_disk_is_said_before_the_first_byte_and_nothing_stays(pieces, tmp_path, store):
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=1m none {small}") != 0:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(DiskFullError, match=f"{SIZE:,}") as caught:
            fetch_file(small / "weights.bin", pieces, store.sign_each, size=SIZE)
        assert caught.value.details["needed"] == SIZE
        assert caught.value.details["free"] <= 1 << 20
        assert list(small.iterdir()) == []
        assert store.requests == []
    finally:
        os.system(f"umount {small}")


def test_a_disk_that_fills_up_later_keeps_what_can_be_resumed(store, data, pieces, target):
    def pwrite(descriptor: int, view: memoryview, offset: int) -> int:
        if offset >= pieces[2].offset:
            raise OSError(28, "No space left on device")
        return real(descriptor, view, offset)

    real = os.pwrite
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(DiskFullError):
            fetch_file(target, pieces, store.sign_each, size=SIZE, threads=1)
    assert not target.exists()
    report = fetch_file(target, pieces, store.sign_each, size=SIZE)
    assert report.resumed_bytes == SIZES[0] + SIZES[1]
    assert target.read_bytes() == data


def test_a_pull_that_fetched_nothing_leaves_nothing(pieces, target):
    def fails(wanted: Sequence[Piece]) -> Mapping[str, str]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fetch_file(target, pieces, fails, size=SIZE)
    assert list(target.parent.iterdir()) == []


def test_a_directory_is_no_target(store, pieces, tmp_path):
    with pytest.raises(UnwritableFileError, match="is a directory"):
        fetch_file(tmp_path, pieces, store.sign_each, size=SIZE)


def test_a_target_under_a_file_is_named(store, pieces, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableFileError, match=r"file/weights\.bin"):
        fetch_file(tmp_path / "file" / "weights.bin", pieces, store.sign_each, size=SIZE)


@pytest.mark.parametrize(
    "layout",
    [
        [],
        [Piece(0, 5, "a" * 64)],
        [Piece(0, 11, "a" * 64)],
        [Piece(1, 9, "a" * 64)],
        [Piece(0, 5, "a" * 64), Piece(4, 6, "b" * 64)],
        [Piece(0, 5, "a" * 64), Piece(6, 5, "b" * 64)],
        [Piece(0, 15, "a" * 64), Piece(15, -5, "b" * 64)],
        [Piece(0, 10, "../../etc/passwd")],
        [Piece(0, 6, "a" * 64), Piece(6, 4, "a" * 64)],
    ],
)
def test_a_layout_that_is_no_file_is_refused_before_anything_is_touched(layout, target):
    with pytest.raises(BadLayoutError):
        fetch_file(target, layout, no_urls, size=10)
    assert not target.parent.exists()


def test_an_interrupt_wakes_threads_that_wait_for_the_store(store, pieces, target):
    store.hold = True
    started = time.monotonic()

    def interrupt() -> None:
        deadline = time.monotonic() + 10
        while len(store.requests) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), 2)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        fetch_file(target, pieces, store.sign_each, size=SIZE, threads=2)
    helper.join()
    assert time.monotonic() - started < 5
    assert list(target.parent.iterdir()) == []


def test_urls_of_a_long_file_are_asked_for_in_batches(store, target):
    data = os.urandom(1200 * 16)
    pieces = publish(store, data, [16] * 1200)
    batches: list[int] = []

    def counted(wanted: Sequence[Piece]) -> Mapping[str, str]:
        batches.append(len(wanted))
        found: Mapping[str, str] = store.sign_each(wanted)
        return found

    fetch_file(target, pieces, counted, size=len(data))
    assert target.read_bytes() == data
    assert batches == [500, 500, 200]


def test_segments_land_in_memory_verified(store, data, pieces):
    memory = bytearray(SIZE)
    buffers = {piece: memoryview(memory)[piece.offset : piece.offset + piece.size] for piece in pieces[1:4]}
    told: list[int] = []
    moved = fetch_into(buffers, store.sign_each, progress=told.append)
    start, end = pieces[1].offset, pieces[4].offset
    assert memory[start:end] == data[start:end]
    assert memory[:start] == bytes(start)
    assert moved == sum(told) == end - start


def test_equal_segments_land_in_every_buffer(store):
    block = os.urandom(1000)
    pieces = publish(store, block * 2, [1000, 1000])
    memory = bytearray(2000)
    fetch_into({piece: memoryview(memory)[piece.offset : piece.offset + 1000] for piece in pieces}, store.sign_each)
    assert bytes(memory) == block * 2
    assert len(store.requests) == 1


def test_damage_on_the_way_to_memory_is_named(store, pieces):
    store.faults[pieces[1].sha256] = [flipped] * 9
    with pytest.raises(DamagedBytesError, match="the very model"):
        fetch_into({pieces[1]: memoryview(bytearray(SIZES[1]))}, store.sign_each, name="the very model")


def test_a_buffer_of_another_size_is_a_bug(store, pieces):
    with pytest.raises(ValueError, match="cannot hold"):
        fetch_into({pieces[1]: memoryview(bytearray(5))}, store.sign_each)


def test_the_digest_is_of_the_bytes_not_of_the_name(store, target):
    sha256 = hashlib.sha256(b"promised").hexdigest()
    store.objects[sha256] = b"returned"
    with pytest.raises(DamagedBytesError):
        fetch_file(target, [Piece(0, 8, sha256)], store.sign_each, size=8)
    assert list(target.parent.iterdir()) == []


def test_a_real_store_gives_back_what_was_put_and_a_bad_copy_fails_closed(s3_config: StoreConfig, data, target):
    bucket = Bucket(s3_config)
    ends = [0, 100_000, SIZE]
    pieces = [Piece(a, b - a, hashlib.sha256(data[a:b]).hexdigest()) for a, b in pairwise(ends)]
    for piece in pieces:
        bucket.put(f"pull/{piece.sha256}", data[piece.offset : piece.offset + piece.size], piece.sha256)

    def sign(wanted: Sequence[Piece]) -> Mapping[str, str]:
        return {piece.sha256: bucket.presign_get(f"pull/{piece.sha256}", expires=60) for piece in wanted}

    fetch_file(target, pieces, sign, size=SIZE)
    assert target.read_bytes() == data

    other = b"\0" * pieces[1].size
    bucket.put(f"pull/{pieces[1].sha256}", other, hashlib.sha256(other).hexdigest())
    with pytest.raises(DamagedBytesError, match=r"100,000 .* of weights\.bin"):
        fetch_file(target, pieces, sign, size=SIZE)
    assert target.read_bytes() == data


def test_a_url_that_really_expired_is_signed_anew(s3_config: StoreConfig, data, target):
    bucket = Bucket(s3_config)
    piece = Piece(0, SIZE, hashlib.sha256(data).hexdigest())
    bucket.put(f"expiry/{piece.sha256}", data, piece.sha256)
    stale = bucket.presign_get(f"expiry/{piece.sha256}", expires=1)
    time.sleep(2.1)
    urls = [stale, bucket.presign_get(f"expiry/{piece.sha256}", expires=60)]
    fetch_file(target, [piece], lambda _: {piece.sha256: urls.pop(0)}, size=SIZE)
    assert (target.read_bytes(), urls) == (data, [])
