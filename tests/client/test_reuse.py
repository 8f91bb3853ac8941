import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from registry.client._download import fetch_file
from registry.client._hashing import Piece
from registry.client._local import LocalSegments, Location
from registry.client._partfile import PartFile
from registry.client._reuse import Filling, Run, runs
from registry.client._workers import Lane
from tests.support.faulty_store import Store, serving

BLOCK = 64 << 10


def cut(data: bytes, size: int) -> list[Piece]:
    blocks = [data[start : start + size] for start in range(0, len(data), size)]
    return [Piece(index * size, len(block), sha256(block).hexdigest()) for index, block in enumerate(blocks)]


def known(path: Path, pieces: list[Piece], shift: int = 0) -> LocalSegments:
    local = LocalSegments()
    local.add(path, [Piece(piece.offset + shift, piece.size, piece.sha256) for piece in pieces])
    return local


def test_neighbours_that_lie_side_by_side_elsewhere_are_one_run():
    pieces = cut(os.urandom(10 * BLOCK), BLOCK)
    local = known(Path("old"), pieces[1:4], shift=7)
    local.add(Path("other"), pieces[6:8])
    assert list(runs(pieces, local)) == [
        Run(Location(Path("old"), BLOCK + 7, 3 * BLOCK), tuple(pieces[1:4])),
        Run(Location(Path("other"), 6 * BLOCK, 2 * BLOCK), tuple(pieces[6:8])),
    ]


def test_a_run_stays_in_one_file_while_that_has_the_next_segment():
    pieces = cut(os.urandom(4 * BLOCK), BLOCK)
    local = known(Path("first"), [pieces[0], pieces[3]])
    local.add(Path("second"), pieces)
    found = list(runs(pieces, local))
    assert [(run.source.path.name, len(run.pieces)) for run in found] == [("first", 1), ("second", 3)]


def test_segments_in_another_order_are_runs_of_their_own():
    pieces = cut(os.urandom(3 * BLOCK), BLOCK)
    local = LocalSegments()
    for position, piece in enumerate(reversed(pieces)):
        local.add(Path("old"), [Piece(position * BLOCK, BLOCK, piece.sha256)])
    assert [run.pieces for run in runs(pieces, local)] == [(piece,) for piece in pieces]


def test_a_long_run_is_divided_so_that_several_threads_work(monkeypatch):
    monkeypatch.setattr("registry.client._reuse._RUN_SIZE", 2 * BLOCK)
    pieces = cut(os.urandom(6 * BLOCK), BLOCK)
    assert [len(run.pieces) for run in runs(pieces, known(Path("old"), pieces))] == [2, 2, 2]


@pytest.fixture
def store() -> Iterator[Store]:
    with serving() as found:
        yield found


def test_what_is_wrong_within_a_run_is_fetched_and_the_rest_of_it_kept(store, tmp_path):
    data = os.urandom(10 * BLOCK)
    pieces = cut(data, BLOCK)
    store.add(data[3 * BLOCK : 4 * BLOCK])
    old = tmp_path / "old"
    old.write_bytes(b"shift" + data[: 3 * BLOCK] + bytes(BLOCK) + data[4 * BLOCK :])
    local = known(old, pieces, shift=5)
    report = fetch_file(tmp_path / "new", pieces, store.sign_each, size=len(data), reuse=local)
    assert (tmp_path / "new").read_bytes() == data
    assert (report.reused_bytes, report.fetched_bytes) == (9 * BLOCK, BLOCK)


def test_a_second_place_is_tried_when_the_first_is_wrong(tmp_path):
    data = os.urandom(4 * BLOCK)
    pieces = cut(data, BLOCK)
    for name, content in (("wrong", bytes(4 * BLOCK)), ("right", data)):
        (tmp_path / name).write_bytes(content)
    local = known(tmp_path / "wrong", pieces)
    local.add(tmp_path / "right", pieces)

    def no_urls(wanted):
        raise AssertionError(wanted)

    report = fetch_file(tmp_path / "new", pieces, no_urls, size=len(data), reuse=local)
    assert (tmp_path / "new").read_bytes() == data
    assert report.reused_bytes == len(data)


def test_copies_and_fetches_mix(store, tmp_path):
    data = os.urandom(40 * BLOCK)
    pieces = cut(data, BLOCK)
    (tmp_path / "old").write_bytes(data)
    for piece in pieces[1::2]:
        store.add(data[piece.offset : piece.offset + piece.size])
    report = fetch_file(
        tmp_path / "new", pieces, store.sign_each, size=len(data), reuse=known(tmp_path / "old", pieces[::2])
    )
    assert (tmp_path / "new").read_bytes() == data
    assert report.reused_bytes == report.fetched_bytes == 20 * BLOCK


@pytest.fixture(params=["xfs", "btrfs"])
def sharing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system whose files can share blocks."""
    make = shutil.which(f"mkfs.{request.param}")
    if make is None or os.getuid() != 0:
        pytest.skip(f"no {request.param} can be made here")
    image, folder = tmp_path / "image", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run([make, "-q", image], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", image, folder], check=False, capture_output=True).returncode:
        pytest.skip("cannot mount here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("shift", [0, 4096 * 3, 5])
def test_where_the_file_system_can_blocks_are_shared(sharing, shift, monkeypatch):
    shared: list[bool] = []
    share = PartFile.share

    def sharing_told(*arguments):
        shared.append(share(*arguments))
        return shared[-1]

    monkeypatch.setattr(PartFile, "share", sharing_told)
    data = os.urandom(32 << 20)
    pieces = cut(data[100:], BLOCK)
    pieces = [Piece(0, 100, sha256(data[:100]).hexdigest())] + [
        Piece(piece.offset + 100, piece.size, piece.sha256) for piece in pieces
    ]
    (sharing / "old").write_bytes(bytes(shift) + data)

    def no_urls(wanted):
        raise AssertionError(wanted)

    local = known(sharing / "old", pieces, shift=shift)
    report = fetch_file(sharing / "new", pieces, no_urls, size=len(data), reuse=local)
    assert (sharing / "new").read_bytes() == data
    assert report.reused_bytes == len(data)
    assert set(shared) == {shift % 4096 == 0}
    (sharing / "old").write_bytes(b"changed")
    assert (sharing / "new").read_bytes() == data


def test_a_range_of_less_than_a_block_is_not_shared(tmp_path):
    (tmp_path / "old").write_bytes(os.urandom(BLOCK))
    with PartFile(tmp_path / "new", BLOCK, durable=False) as part, (tmp_path / "old").open("rb") as old:
        assert not part.share(old.fileno(), 10, 50, 10)


def test_a_source_that_is_gone_makes_every_segment_of_the_run_bad(tmp_path):
    pieces = cut(os.urandom(2 * BLOCK), BLOCK)
    run = next(runs(pieces, known(tmp_path / "gone", pieces)))
    with PartFile(tmp_path / "new", 2 * BLOCK, durable=False) as part:
        filling = Filling(part, {piece: (piece.offset,) for piece in pieces})
        copied = filling.copy(run, Lane(threading.Event()))
    assert (copied.good, copied.bad) == ((), tuple(pieces))
