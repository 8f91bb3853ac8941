import time
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.weights.segments import (
    MAX_SEGMENT_BYTES,
    OWN_SEGMENT_BYTES,
    PACK_BYTES,
    PACK_MIN_BYTES,
    SEGMENT_BYTES,
    Span,
    cut,
)
from registry.weights.tensors import Header, Part, Tensor

KB = 1024


def laid_out(sizes: dict[str, int], header: int = 1000) -> tuple[int, Header]:
    starts = accumulate(sizes.values(), initial=header)
    tensors = tuple(Tensor(n, "U8", (s,), at, s) for (n, s), at in zip(sizes.items(), starts, strict=False))
    return header + sum(sizes.values()), Header(tensors, {}, header)


def packs(sizes: dict[str, int], header: int = 1000) -> list[tuple[str, ...]]:
    """The tensors of each segment, which stand for its bytes."""
    size, read = laid_out(sizes, header)
    return [
        tuple(f"{t.name}+{max(0, span.offset - t.offset)}" for t in read.tensors if t.size and overlaps(t, span))
        for span in cut(size, read)
        if span.offset >= header
    ]


def overlaps(tensor: Tensor, span: Span) -> bool:
    return tensor.offset < span.offset + span.size and span.offset < tensor.offset + tensor.size


def assert_covers(size: int, spans: list[Span]) -> None:
    end = 0
    for span in spans:
        assert span.offset == end
        assert 0 < span.size <= SEGMENT_BYTES <= MAX_SEGMENT_BYTES
        end += span.size
    assert end == size


tensor_sizes = st.one_of(
    st.integers(0, 2000),
    st.integers(0, OWN_SEGMENT_BYTES + 1),
    st.integers(OWN_SEGMENT_BYTES - 1, 3 * SEGMENT_BYTES),
    st.sampled_from([0, 1, OWN_SEGMENT_BYTES, PACK_BYTES, PACK_BYTES + 1, SEGMENT_BYTES, SEGMENT_BYTES + 1]),
)
models = st.dictionaries(st.text(max_size=8), tensor_sizes, max_size=40)


def test_an_empty_file_has_no_segments() -> None:
    assert cut(0, Header((), {}, 0)) == []


@given(st.integers(0, 20 * SEGMENT_BYTES))
def test_a_file_that_names_no_parts_is_cut_at_fixed_places(size) -> None:
    spans = cut(size, Header((), {}, 0))
    assert_covers(size, spans)
    assert all(span.size == SEGMENT_BYTES for span in spans[:-1])


@settings(max_examples=300)
@given(models, st.integers(10, 3 * SEGMENT_BYTES))
def test_spans_cover_the_file_exactly_and_keep_their_bounds(sizes, header) -> None:
    size, read = laid_out(sizes, header)
    spans = cut(size, read)
    assert_covers(size, spans)
    edges = {span.offset for span in spans} | {size}
    assert header in edges
    for tensor in read.tensors:
        if tensor.size >= OWN_SEGMENT_BYTES:
            assert {tensor.offset, tensor.offset + tensor.size} <= edges
        elif tensor.size:
            assert not any(tensor.offset < edge < tensor.offset + tensor.size for edge in edges)
    for span in spans:
        inside = [t for t in read.tensors if t.size and overlaps(t, span)]
        if len(inside) > 1:
            assert span.size <= PACK_BYTES


@given(models, st.integers(10, 5000), st.integers(10, 5000))
def test_another_header_changes_no_segment_of_tensors(sizes, one, two) -> None:
    assert packs(sizes, one) == packs(sizes, two)


@given(models, st.randoms(use_true_random=False))
def test_another_order_keeps_the_segments_of_large_tensors(sizes, random) -> None:
    names = list(sizes)
    random.shuffle(names)
    assert large(sizes) == large({name: sizes[name] for name in names})


@given(models, st.integers(0, 40))
def test_other_shards_keep_the_segments_of_large_tensors(sizes, where) -> None:
    items = list(sizes.items())
    assert large(sizes) == large(dict(items[:where])) | large(dict(items[where:]))


def large(sizes: dict[str, int]) -> set[tuple[str, ...]]:
    return {pack for pack in packs(sizes) if sizes[pack[0].rpartition("+")[0]] >= OWN_SEGMENT_BYTES}


def many_small(seed: int) -> dict[str, int]:
    random = Random(seed)
    return {f"blocks.{i}.norm.weight": random.choice([512, 3 * KB, 12 * KB, 48 * KB]) for i in range(2000)}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("added", [1, 700, 100 * KB])
def test_a_small_tensor_added_near_the_front_changes_few_packs(seed, added) -> None:
    sizes = many_small(seed)
    before = packs(sizes)
    items = list(sizes.items())
    after = packs(dict([*items[:3], ("new.bias", added), *items[3:]]))
    assert len(before) > 50
    assert len(set(after) - set(before)) <= 6
    removed = packs(dict(items[:3] + items[4:]))
    assert len(set(removed) - set(before)) <= 6


def test_small_tensors_are_packed_into_few_segments() -> None:
    sizes = many_small(0)
    counted = packs(sizes)
    mean = sum(sizes.values()) / len(counted)
    assert 2 * PACK_MIN_BYTES < mean < PACK_BYTES / 2
    one_kb = packs({f"layer.{i}.bias": 1 * KB for i in range(20_000)})
    assert 2 * PACK_MIN_BYTES < 20_000 * KB / len(one_kb) < PACK_BYTES / 2


def test_the_cuts_are_the_same_in_every_release() -> None:
    sizes = many_small(1) | {"embed": 9 * SEGMENT_BYTES + 5, "head": OWN_SEGMENT_BYTES, "tail": 7}
    size, read = laid_out(sizes)
    text = ",".join(f"{span.offset}+{span.size}" for span in cut(size, read))
    # A change here stores every model anew: decide it, measure it, say it in the changelog.
    assert sha256(text.encode()).hexdigest()[:16] == "f6b42c691921d2bf"


def test_a_header_of_another_file_is_refused() -> None:
    size, read = laid_out({"a": 10, "b": 20})
    with pytest.raises(ValueError, match="end at byte 1030 of 1029"):
        cut(size - 1, read)
    with pytest.raises(ValueError, match="'b' starts before"):
        cut(size, Header((read.tensors[0], Tensor("b", "U8", (20,), 1009, 21)), {}, 1000))


def test_a_hundred_thousand_tensors_are_cut_quickly() -> None:
    size, read = laid_out({f"experts.{i}.bias": 4 * KB for i in range(100_000)})
    started = time.process_time()
    spans = cut(size, read)
    assert time.process_time() - started < 2
    assert_covers(size, spans)


# Files of real bytes, with something between their parts as archives and aligned formats have it.


@dataclass(frozen=True)
class File:
    data: bytes
    header: Header

    def spans(self) -> list[Span]:
        return cut(len(self.data), self.header)

    def segments(self) -> dict[str, int]:
        """Size by digest."""
        return {sha256(self.data[s.offset : s.offset + s.size]).hexdigest(): s.size for s in self.spans()}

    def stored_beside(self, *others: "File") -> int:
        known = set().union(*(other.segments() for other in others))
        return sum(size for digest, size in self.segments().items() if digest not in known)


def content(name: str, size: int) -> bytes:
    return Random(name).randbytes(size)


def archive(parts: dict[str, int], *, header: int = 300, between: int = 0, end: int = 0, seed: int = 0) -> File:
    """`between` is the most that lies before each part, of another length and with other bytes for every seed."""
    random = Random(seed)
    blocks = [random.randbytes(header)]
    placed = []
    offset = header
    for name, size in parts.items():
        blocks += [random.randbytes(random.randint(0, between)), content(name, size)]
        offset += len(blocks[-2])
        placed.append(Part(name, offset, size))
        offset += size
    blocks.append(random.randbytes(end))
    return File(b"".join(blocks), Header((), {}, header, parts=tuple(placed)))


def own_segments(parts: dict[str, int]) -> set[str]:
    """The digests that the large parts have by themselves, each cut from its own start."""
    return {
        sha256(content(name, size)[at : at + SEGMENT_BYTES]).hexdigest()
        for name, size in parts.items()
        if size >= OWN_SEGMENT_BYTES
        for at in range(0, size, SEGMENT_BYTES)
    }


part_sizes = st.one_of(
    st.integers(0, 3000),
    st.integers(1, OWN_SEGMENT_BYTES),
    st.sampled_from([OWN_SEGMENT_BYTES, OWN_SEGMENT_BYTES + 1, SEGMENT_BYTES + 17]),
)
archives = st.dictionaries(st.text(max_size=6), part_sizes, max_size=8)
gaps = st.sampled_from([0, 1, 63, 5000, OWN_SEGMENT_BYTES - 1, 2 * OWN_SEGMENT_BYTES])


@settings(max_examples=150, deadline=None)
@given(archives, gaps, gaps, gaps)
def test_bytes_between_parts_are_covered_and_disturb_no_large_part(parts, header, between, end) -> None:
    file = archive(parts, header=header, between=between, end=end)
    assert_covers(len(file.data), file.spans())
    assert own_segments(parts) <= set(file.segments())


@settings(max_examples=60, deadline=None)
@given(archives, gaps, gaps, st.randoms(use_true_random=False), st.integers(0, 8))
def test_another_order_header_shard_or_neighbour_keeps_every_segment_of_large_parts(
    parts, header, between, random, where
) -> None:
    names = list(parts)
    random.shuffle(names)
    moved = archive({name: parts[name] for name in names}, header=header, between=between, seed=1)
    assert own_segments(parts) <= set(moved.segments())
    items = list(parts.items())
    shards = [archive(dict(items[:where]), seed=2), archive(dict(items[where:]), between=between, seed=3)]
    assert own_segments(parts) <= set(shards[0].segments()) | set(shards[1].segments())
    grown = archive(dict([*items[:where], ("a new one", 70_000), *items[where:]]), between=between, seed=4)
    assert own_segments(parts) <= set(grown.segments())


@settings(max_examples=60, deadline=None)
@given(archives, st.sampled_from([8, 32, 64]), st.integers(0, 200))
def test_alignment_that_only_moves_the_parts_changes_nothing_stored(parts, alignment, header) -> None:
    one, other = (aligned(parts, alignment, size) for size in (alignment, alignment * (header + 2)))
    assert other.stored_beside(one) <= other.header.size


def aligned(parts: dict[str, int], alignment: int, header: int) -> File:
    """As GGUF has it: zeros before each part up to the next multiple."""
    data = bytearray(Random(header).randbytes(header))
    placed = []
    for name, size in parts.items():
        data += bytes(-len(data) % alignment)
        placed.append(Part(name, len(data), size))
        data += content(name, size)
    return File(bytes(data), Header((), {}, header, parts=tuple(placed)))


def test_what_lies_before_a_small_part_goes_with_it_and_what_follows_the_last_is_cut_off() -> None:
    small, big = 1000, OWN_SEGMENT_BYTES
    parts = (Part("small", 110, small), Part("big", 1130, big), Part("last", 1150 + big, small))
    end = 1150 + big + small
    assert cut(end + 40, Header((), {}, 100, parts=parts)) == [
        Span(0, 100),
        Span(100, 10 + small + 20),
        Span(1130, big),
        Span(1130 + big, 20 + small),
        Span(end, 40),
    ]


def test_much_that_lies_between_parts_is_cut_off_from_them() -> None:
    between = OWN_SEGMENT_BYTES
    parts = (Part("a", 100, 50), Part("b", 150 + between, 50))
    assert cut(200 + between, Header((), {}, 100, parts=parts)) == [
        Span(0, 100),
        Span(100, 50),
        Span(150, between),
        Span(150 + between, 50),
    ]


def test_a_format_may_name_parts_of_its_header() -> None:
    tokens = OWN_SEGMENT_BYTES
    parts = (Part("tokens", 90, tokens), Part("a", 500 + tokens, 100))
    header = 500 + tokens
    assert cut(header + 100, Header((), {}, header, parts=parts)) == [
        Span(0, 90),
        Span(90, tokens),
        Span(90 + tokens, 510),
    ]


def test_parts_replace_the_tensors_as_places_to_cut_at() -> None:
    tensors = (Tensor("view", "U8", (9,), 100, 9), Tensor("other view", "U8", (9,), 103, 9))
    assert cut(120, Header(tensors, {}, 100, parts=(Part("storage", 100, 20),))) == [Span(0, 100), Span(100, 20)]
    assert cut(120, Header(tensors, {}, 100, parts=())) == [Span(0, 100), Span(100, 20)]


@pytest.mark.parametrize("seed", range(3))
def test_a_part_added_among_small_ones_stores_little_anew(seed) -> None:
    sizes = many_small(seed)
    before = archive(sizes, between=90)
    items = list(sizes.items())
    added = archive(dict([*items[:1000], ("new", 600), *items[1000:]]), between=90)
    assert len(before.data) > 30 * 2**20
    # The bytes between parts differ from the new one on, as an archive's offsets do: only what lies before is shared.
    assert added.stored_beside(before) < 0.53 * len(before.data)
    plain, longer = archive(sizes), archive(dict([*items[:1000], ("new", 600), *items[1000:]]))
    assert longer.stored_beside(plain) < 0.03 * len(plain.data)
