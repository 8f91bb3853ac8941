import io
from hashlib import sha256
from random import Random

import pyfastcdc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.weights.contents import MAX_BYTES, MIN_BYTES, cut
from registry.weights.segments import MAX_SEGMENT_BYTES, Span

MB = 2**20
DATA = Random(1).randbytes(24 * MB)


def spans(data: bytes) -> list[Span]:
    return cut(len(data), io.BytesIO(data).readinto)


def segments(data: bytes) -> dict[str, int]:
    return {sha256(data[s.offset : s.offset + s.size]).hexdigest(): s.size for s in spans(data)}


def stored_beside(data: bytes, other: bytes) -> int:
    known = segments(other)
    return sum(size for digest, size in segments(data).items() if digest not in known)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9 * MB), st.sampled_from([b"\0", b"ab", b"", b'{"id": 1}\n']))
def test_the_spans_cover_the_file_and_keep_their_bounds(size, repeated) -> None:
    data = (repeated * (size // len(repeated) + 1))[:size] if repeated else DATA[:size]
    found = spans(data)
    end = 0
    for span in found:
        assert span.offset == end
        assert 0 < span.size <= MAX_BYTES <= MAX_SEGMENT_BYTES
        end += span.size
    assert end == size
    assert all(span.size >= MIN_BYTES for span in found[:-1])


@pytest.mark.parametrize("size", [1, 1000, MIN_BYTES])
def test_a_small_file_is_one_segment_and_is_not_read(size) -> None:
    assert cut(size, lambda _: pytest.fail("read")) == [Span(0, size)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, len(DATA)), st.binary(min_size=1, max_size=5000))
def test_bytes_put_in_anywhere_store_little_anew(where, added) -> None:
    assert stored_beside(DATA[:where] + added + DATA[where:], DATA) <= 3 * MAX_BYTES


def test_what_stands_behind_another_beginning_is_found_again() -> None:
    assert stored_beside(Random(2).randbytes(3 * MB + 1) + DATA, DATA) <= 4 * MB + MAX_BYTES


def test_short_reads_make_no_difference() -> None:
    stream = io.BytesIO(DATA)
    assert cut(len(DATA), lambda buffer: stream.readinto(buffer[:70_001])) == spans(DATA)


def test_a_file_that_grows_is_cut_as_long_as_it_was() -> None:
    assert cut(5 * MB, io.BytesIO(DATA).readinto) == spans(DATA[: 5 * MB])


def test_of_a_file_that_shrinks_what_is_left_is_cut() -> None:
    assert sum(span.size for span in cut(len(DATA) + 5, io.BytesIO(DATA).readinto)) == len(DATA)


def test_a_failure_to_read_is_raised() -> None:
    def broken(_: memoryview) -> int:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        cut(MB, broken)


def test_the_cuts_are_the_same_in_every_release() -> None:
    text = ",".join(str(span.size) for span in spans(DATA + bytes(9 * MB) + b"a,b,1\n" * 2**20))
    # A change here stores such files anew: decide it, measure it, say it in the changelog.
    assert sha256(text.encode()).hexdigest()[:16] == "f0aae0de070120ca"


def test_the_compiled_library_is_installed() -> None:
    # Without it cuts are the same, but take minutes a gigabyte.
    assert pyfastcdc.FastCDC.__module__.startswith("pyfastcdc.cy")
