import time
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
from registry.weights.tensors import Header, Tensor

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


@given(st.integers(0, 20 * SEGMENT_BYTES))
def test_a_file_without_tensors_is_cut_at_fixed_places(size) -> None:
    spans = cut(size, None)
    assert_covers(size, spans)
    assert all(span.size == SEGMENT_BYTES for span in spans[:-1])


def test_an_empty_file_has_no_segments() -> None:
    assert cut(0, None) == []


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
    for wrong in (size - 1, size + 1):
        with pytest.raises(ValueError, match="end at byte"):
            cut(wrong, read)
    with pytest.raises(ValueError, match="'b' does not start"):
        cut(size, Header((read.tensors[0], Tensor("b", "U8", (20,), 1011, 20)), {}, 1000))


def test_a_hundred_thousand_tensors_are_cut_quickly() -> None:
    size, read = laid_out({f"experts.{i}.bias": 4 * KB for i in range(100_000)})
    started = time.process_time()
    spans = cut(size, read)
    assert time.process_time() - started < 2
    assert_covers(size, spans)
