"""Each rule of the header has a file that breaks only that rule."""

import struct
import time
from typing import Any

import pytest

from registry.weights import errors
from registry.weights.gguf import _BLOCKS, MAX_DEPTH, MAX_HEADER, MAX_KEYS, MAX_NAME, MAX_RANK, MAX_TENSORS, header
from registry.weights.tensors import Header, Tensor
from tests.weights.gguf_file import ARRAY, F32, F64, I64, TEXT, U8, U32, Entry, gguf, pair, sample, text

F32_TYPE, Q8_0, Q4_K = 0, 8, 12


def read(data: bytes, size: int | None = None) -> Header:
    found = header(len(data) if size is None else size, lambda offset, length: data[offset : offset + length])
    assert found is not None
    return found


def one(dims: tuple[int, ...] = (2,), kind: int = F32_TYPE, *, name: str | bytes = "w", offset: int = 0) -> bytes:
    return gguf([Entry(name, dims, kind, offset)], body=bytes(4096))


def test_tensors_are_told_in_the_order_of_their_bytes_and_shapes_in_numpys() -> None:
    data = sample()
    found = read(data)
    assert [(t.name, t.dtype, t.shape, t.offset - found.size, t.size) for t in found.tensors] == [
        ("token_embd.weight", "Q4_K", (4, 256), 0, 576),
        ("blk.0.attn_q.weight", "Q8_0", (2, 64), 576, 136),
        ("blk.0.attn_norm.weight", "F32", (5,), 736, 20),
        ("output.weight", "BF16", (2, 3), 768, 12),
    ]
    assert found.size % 32 == 0


def test_metadata_keeps_what_is_short_and_counts_what_is_long() -> None:
    pairs = [
        pair("long", TEXT, "x" * 5000),
        pair("latin", TEXT, b"caf\xe9"),
        pair("none", TEXT, ""),
        pair("small", I64, -7),
        pair("exact", F64, 0.1),
    ]
    assert read(sample()).metadata == {
        "general.architecture": "llama",
        "general.alignment": "32",
        "llama.block_count": "2",
        "llama.rope.freq_base": "10000",
        "tokenizer.ggml.tokens": "(200 × text)",
        "tokenizer.ggml.scores": "(200 × f32)",
        "deep": "(2 × array)",
    }
    assert read(gguf(pairs=pairs)).metadata == {
        "long": "(5,000 bytes of text)",
        "latin": "(4 bytes of text)",
        "none": "",
        "small": "-7",
        "exact": "0.1",
    }


def test_version_2_is_read_alike() -> None:
    assert read(gguf([Entry("w", (2,), 0, 0)], body=bytes(8), version=2)) == read(one())


@pytest.mark.parametrize("version", [1, 1 << 24, 3 << 24])
def test_version_1_and_big_endian_files_are_relatives_that_are_not_looked_into(version) -> None:
    data = gguf(version=version)
    assert header(len(data), lambda offset, length: data[offset : offset + length]) is None


@pytest.mark.parametrize("kind", _BLOCKS)
def test_every_type_has_the_size_that_its_blocks_give(kind) -> None:
    dtype, elements, size = _BLOCKS[kind]
    found = read(gguf([Entry("w", (2 * elements, 3), kind, 0)], body=bytes(6 * size))).tensors[0]
    assert (found.dtype, found.shape, found.size) == (dtype, (3, 2 * elements), 6 * size)


def test_bytes_between_tensors_and_after_them_are_nobodys() -> None:
    entries = [Entry("a", (2,), 0, 64), Entry("b", (2,), 0, 0)]
    found = read(gguf(entries, body=bytes(200)))
    assert [(t.name, t.offset - found.size) for t in found.tensors] == [("b", 0), ("a", 64)]


def test_a_file_of_metadata_alone_is_a_header() -> None:
    data = gguf(pairs=[pair("general.name", TEXT, "vocabulary")]).rstrip(b"\0")
    assert read(data) == Header((), {"general.name": "vocabulary"}, len(data))


def test_the_alignment_of_the_file_counts() -> None:
    pairs = [pair("general.alignment", U32, 64)]
    found = read(gguf([Entry("w", (2,), 0, 0)], pairs, body=bytes(8), alignment=64))
    assert found.tensors == (Tensor("w", "F32", (2,), 128, 8),)


def test_a_scalar_and_an_empty_tensor_have_their_sizes() -> None:
    entries = [Entry("scalar", (), 0, 0), Entry("empty", (0, 2**40, 2**20), 0, 32)]
    found = read(gguf(entries, body=bytes(32)))
    assert [(t.name, t.shape, t.size) for t in found.tensors] == [("scalar", (), 4), ("empty", (2**20, 2**40, 0), 0)]


BROKEN: list[tuple[bytes, type[errors.GgufError], str]] = [
    (b"", errors.GgufMagicError, "four letters"),
    (b"GGUF", errors.GgufMagicError, "four letters"),
    (b"GGML" + bytes(40), errors.GgufMagicError, "four letters"),
    (gguf(version=4), errors.GgufVersionError, "version 4"),
    (gguf(version=0), errors.GgufVersionError, "version 0"),
    (gguf()[:20], errors.GgufTruncatedError, "the counts"),
    (gguf(counts={"tensors": MAX_TENSORS + 1}), errors.GgufTooManyTensorsError, "100,001"),
    (gguf(counts={"keys": MAX_KEYS + 1}), errors.GgufMetadataError, "10,001"),
    (gguf(counts={"tensors": MAX_TENSORS}), errors.GgufTruncatedError, "100,000 tensors"),
    (gguf(counts={"keys": MAX_KEYS}), errors.GgufTruncatedError, "the metadata"),
    (gguf(pairs=[pair("a", U8, 1)] * 2), errors.GgufDuplicateKeyError, "'a'"),
    (gguf(pairs=[pair("", U8, 1)]), errors.GgufMetadataError, "''"),
    (gguf(pairs=[pair("a\nb", U8, 1)]), errors.GgufMetadataError, "1,024 bytes"),
    (gguf(pairs=[pair(b"\xff", U8, 1)]), errors.GgufMetadataError, "not UTF-8"),
    (gguf(pairs=[pair("k" * (MAX_NAME + 1), U8, 1)]), errors.GgufMetadataError, "1,024 bytes"),
    (gguf(pairs=[text("a") + struct.pack("<I", 13)]), errors.GgufMetadataError, "type 13"),
    (gguf(pairs=[text("a") + struct.pack("<IIQ", ARRAY, 99, 1)]), errors.GgufMetadataError, "type 99"),
    (gguf(pairs=[text("abc") + struct.pack("<IQ", TEXT, 2**63)]), errors.GgufTruncatedError, "'abc'"),
    (gguf(pairs=[text("abc") + struct.pack("<IIQ", ARRAY, F32, 2**62)]), errors.GgufTruncatedError, "'abc'"),
    (gguf(pairs=[text("abc") + struct.pack("<IIQ", ARRAY, TEXT, 2**62)]), errors.GgufTruncatedError, "'abc'"),
    (gguf(pairs=[text("abc") + struct.pack("<IIQ", ARRAY, ARRAY, 2**62)]), errors.GgufTruncatedError, "'abc'"),
    (gguf(pairs=[pair("general.alignment", U32, 48)]), errors.GgufAlignmentError, "'48'"),
    (gguf(pairs=[pair("general.alignment", U32, 0)]), errors.GgufAlignmentError, "'0'"),
    (gguf(pairs=[pair("general.alignment", I64, 32)]), errors.GgufAlignmentError, "'32'"),
    (one(name=""), errors.GgufNameError, "''"),
    (one(name="a\x7f"), errors.GgufNameError, "UTF-8"),
    (one(name=b"\xc3"), errors.GgufNameError, "UTF-8"),
    (one(name="n" * (MAX_NAME + 1)), errors.GgufNameError, "nnn"),
    (gguf([Entry("w", (2,), 0, 0), Entry("w", (2,), 0, 32)], body=bytes(64)), errors.GgufDuplicateTensorError, "'w'"),
    (one((1,) * (MAX_RANK + 1)), errors.GgufRankError, "33"),
    (one(kind=4), errors.GgufDtypeError, "type 4"),
    (one(kind=2**32 - 1), errors.GgufDtypeError, "'w'"),
    (one((31,), Q8_0), errors.GgufBlockError, "31 elements"),
    (one((128, 256), Q4_K), errors.GgufBlockError, "'w'"),
    (one((), Q8_0), errors.GgufBlockError, "'w'"),
    (one((2**32, 2**32)), errors.GgufOverflowError, "'w'"),
    (one((0, 2**62, 2)), errors.GgufOverflowError, "'w'"),
    (one((2**63,)), errors.GgufOverflowError, "'w'"),
    (one(offset=33), errors.GgufAlignmentError, "'w'"),
    (one((1024,), offset=32), errors.GgufTruncatedError, "'w' ends at byte"),
    (one(offset=2**64 - 32), errors.GgufTruncatedError, "'w'"),
    (gguf([Entry("a", (9,), 0, 0), Entry("b", (2,), 0, 32)], body=bytes(64)), errors.GgufOverlapError, "'a'"),
]


@pytest.mark.parametrize(("data", "error", "named"), BROKEN)
def test_a_file_that_breaks_one_rule_is_refused_with_its_error(data, error, named) -> None:
    with pytest.raises(error, match=named) as caught:
        read(data)
    assert type(caught.value) is error
    assert str(caught.value).endswith(".")


def nested(depth: int) -> bytes:
    content: Any = (U8, [1])
    for _ in range(depth - 1):
        content = (ARRAY, [content])
    return gguf(pairs=[pair("nested", ARRAY, content)])


def test_arrays_inside_arrays_have_a_limit() -> None:
    assert read(nested(MAX_DEPTH)).metadata == {"nested": "(1 × array)"}
    with pytest.raises(errors.GgufMetadataError, match="'nested'"):
        read(nested(MAX_DEPTH + 1))


def test_every_truncation_is_refused() -> None:
    data = sample()
    last = read(data).tensors[-1]
    for size in range(last.offset + last.size):
        with pytest.raises(errors.GgufError):
            read(data[:size])


def test_a_read_that_comes_short_is_refused() -> None:
    data = sample()
    for held in (0, 3, 20, 500):
        with pytest.raises(errors.GgufTruncatedError):
            read(data[:held] if held != 3 else data[:8], len(data))


def test_a_header_over_the_limit_is_refused() -> None:
    data = gguf(pairs=[pair("big", TEXT, "x" * MAX_HEADER)], body=bytes(100))
    with pytest.raises(errors.GgufHeaderTooLargeError, match="'big'"):
        read(data)


def test_a_large_header_is_read_in_few_reads_and_nothing_behind_it() -> None:
    pairs = [pair("tokens", ARRAY, (TEXT, [f"token {i}" for i in range(150_000)]))]
    data = gguf([Entry("w", (2**22,), 0, 0)], pairs, body=bytes(2**24))
    asked = []

    def noted(offset: int, length: int) -> bytes:
        asked.append(length)
        return data[offset : offset + length]

    found = header(len(data), noted)
    assert found is not None
    assert found.metadata == {"tokens": "(150,000 × text)"}
    assert len(asked) <= 8
    assert sum(asked) < 2 * found.size


@pytest.mark.parametrize("kind", [U8, TEXT, ARRAY])
def test_the_costliest_headers_stay_in_bounds(kind) -> None:
    unit = {U8: bytes(1), TEXT: bytes(8), ARRAY: struct.pack("<IQ", U8, 0)}[kind]
    count = (MAX_HEADER - 1000) // len(unit)
    array = text("a") + struct.pack("<IIQ", ARRAY, kind, count) + unit * count
    check_cost(gguf(pairs=[array]))


def test_as_many_tensors_as_allowed_are_read_in_bounds() -> None:
    entries = [Entry(f"blk.{i}.ffn_gate_exps.weight", (8,), 0, 32 * i) for i in range(MAX_TENSORS)]
    found = check_cost(gguf(entries, body=bytes(32 * MAX_TENSORS)))
    assert len(found.tensors) == MAX_TENSORS


def check_cost(data: bytes) -> Header:
    started = time.process_time()
    found = read(data)
    assert time.process_time() - started < 5
    return found
