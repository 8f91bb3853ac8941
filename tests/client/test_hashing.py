import hashlib
import os
from itertools import pairwise
from pathlib import Path

import pytest

from registry.client import _hashing
from registry.client._hashing import FileChangedError, UnreadableFileError, hash_file, hash_files, hashing, verify_file

SIZES = [1, 700_000, (4 << 20) + 13, 5, 40 << 20, 3 << 20]


def cut(sizes: list[int]) -> list[tuple[int, int]]:
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return [(start, end - start) for start, end in pairwise(ends)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(sum(SIZES)))
    return path


def test_every_segment_and_the_whole_file_are_hashed_exactly(file):
    data = file.read_bytes()
    found = hash_file(file, cut(SIZES))
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.size == len(data)
    assert [(piece.offset, piece.size) for piece in found.pieces] == cut(SIZES)
    for piece in found.pieces:
        assert piece.sha256 == hashlib.sha256(data[piece.offset : piece.offset + piece.size]).hexdigest()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(file, threads):
    assert hash_file(file, cut(SIZES), threads=threads) == hash_file(file, cut(SIZES))


def test_an_empty_file_has_no_segments_and_the_digest_of_nothing(tmp_path):
    path = tmp_path / "empty"
    path.touch()
    found = hash_file(path, [])
    assert (found.size, found.pieces, found.sha256) == (0, (), hashlib.sha256().hexdigest())


def test_a_file_of_one_segment_is_read_once(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(b"weights")
    told: list[int] = []
    found = hash_file(path, [(0, 7)], progress=told.append)
    assert found.sha256 == found.pieces[0].sha256 == hashlib.sha256(b"weights").hexdigest()
    assert told == [7]


def test_many_files_come_back_in_the_order_of_the_question(tmp_path):
    paths = [tmp_path / f"{number}" for number in range(50)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * (number + 1))
    found = hash_files([(path, [(0, number + 1)]) for number, path in enumerate(paths)])
    assert [entry.path for entry in found] == paths
    assert len({entry.sha256 for entry in found}) == 50


def test_pieces_are_known_before_the_file_is_done(file):
    with hashing([(file, cut(SIZES))]) as work:
        first = next(iter(work))
        assert first[0] == 0
        assert len(work.files()[0].pieces) == len(SIZES)


def test_progress_adds_up_to_the_bytes(file):
    told: list[int] = []
    hash_file(file, cut(SIZES), progress=told.append)
    assert sum(told) == file.stat().st_size


def test_a_file_that_grows_while_it_is_hashed_is_refused(file):
    with hashing([(file, cut(SIZES))]) as work:
        next(iter(work))
        with file.open("ab") as more:
            more.write(b"x")
        with pytest.raises(FileChangedError, match=r"weights\.bin"):
            work.files()


def test_a_file_rewritten_in_place_while_it_is_hashed_is_refused(file):
    with hashing([(file, cut(SIZES))]) as work:
        next(iter(work))
        with file.open("r+b") as other:
            other.write(b"other bytes")
        with pytest.raises(FileChangedError):
            work.files()


def test_spans_of_an_older_size_mean_that_the_file_changed(file):
    with pytest.raises(FileChangedError):
        hash_file(file, cut([*SIZES, 10]))


def test_spans_that_leave_a_hole_are_a_bug(file):
    with pytest.raises(ValueError, match="not contiguous"):
        hash_file(file, [(0, 10), (11, 5)])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnreadableFileError, match="absent"):
        hash_file(tmp_path / "absent", [(0, 1)])


def test_a_directory_is_no_file(tmp_path):
    size = tmp_path.stat().st_size
    with pytest.raises(UnreadableFileError):
        hash_file(tmp_path, [(0, size)] if size else [])


def test_a_whole_file_can_be_read_again(file):
    assert verify_file(file, hashlib.sha256(file.read_bytes()).hexdigest())
    assert not verify_file(file, "0" * 64)
    with pytest.raises(UnreadableFileError):
        verify_file(file.with_name("absent"), "0" * 64)


def test_at_least_two_threads_hash_even_on_one_core():
    assert _hashing.cores() >= 1
