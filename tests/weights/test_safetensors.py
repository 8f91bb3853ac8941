"""Each rule of the header has a file that breaks only that rule."""

import json
import struct
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save

from registry.weights import errors
from registry.weights.safetensors import MAX_HEADER, MAX_METADATA_KEYS, MAX_NAME, MAX_RANK, MAX_TENSORS, parse
from registry.weights.safetensors import header_size as read_header_size


def entry(begin: int, end: int, *, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def framed(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def read(header: dict[str, Any] | str | bytes, body: int = 0) -> Any:
    data = framed(json.dumps(header) if isinstance(header, dict) else header)
    return parse(data, len(data) + body)


def one(fields: str) -> str:
    return '{"layer.weight": {' + fields + "}}"


DTYPE, SHAPE, OFFSETS = '"dtype": "F32"', '"shape": [2]', '"data_offsets": [0, 8]'


def with_offsets(text: str) -> str:
    return one(f'{DTYPE}, {SHAPE}, "data_offsets": {text}')


def with_shape(text: str) -> str:
    return one(f'{DTYPE}, "shape": {text}, {OFFSETS}')


def test_a_file_of_the_library_is_read_in_the_order_of_its_bytes() -> None:
    data = save({"b": np.ones((2, 3), np.float32), "a": np.ones(5, np.int64)}, {"epoch": "3"})
    total = read_header_size(data[:8], len(data))
    header = parse(data[:total], len(data))
    assert [(t.name, t.dtype, t.shape, t.offset - total, t.size) for t in header.tensors] == [
        ("a", "I64", (5,), 0, 40),
        ("b", "F32", (2, 3), 40, 24),
    ]
    assert header.metadata == {"epoch": "3"}
    assert header.size == total


def test_tensors_are_ordered_by_offset_whatever_the_header_says() -> None:
    header = read({"z": entry(0, 1), "a": entry(3, 4), "m": entry(1, 3), "empty": entry(1, 1)}, 4)
    assert [t.name for t in header.tensors] == ["z", "empty", "m", "a"]


def test_white_space_and_padding_of_json_pass() -> None:
    assert read(b'{ \n\t"a" :{"shape":[ 1 ,\n2 ] , "data_offsets": [0,2 ],"dtype":"U8"\r} }   ', 2).tensors[
        0
    ].shape == (1, 2)


def test_a_file_without_tensors_and_a_scalar_pass() -> None:
    assert read({}).tensors == ()
    assert read({"scalar": entry(0, 1, shape=[])}, 1).tensors[0].shape == ()


def test_escaped_names_are_decoded() -> None:
    assert (
        read('{"\\u00e9\\ud83d\\ude00\\"": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}').tensors[0].name == 'é😀"'
    )


BROKEN: list[tuple[type[errors.SafetensorsError], str | bytes, int]] = [
    (errors.SafetensorsEncodingError, b'{"\xff": 1}', 0),
    (errors.SafetensorsNotObjectError, "[]", 0),
    (errors.SafetensorsNotObjectError, " {}", 0),
    (errors.SafetensorsNotObjectError, "", 0),
    (errors.SafetensorsNotObjectError, '{"layer.weight": [1]}', 0),
    (errors.SafetensorsNotObjectError, '{"layer.weight": null}', 0),
    (errors.SafetensorsSyntaxError, "{", 0),
    (errors.SafetensorsSyntaxError, "{]", 0),
    (errors.SafetensorsSyntaxError, "{} {}", 0),
    (errors.SafetensorsSyntaxError, "{}\0", 0),
    (errors.SafetensorsSyntaxError, "{'a': 1}", 0),
    (errors.SafetensorsSyntaxError, '{"a" 1}', 0),
    (errors.SafetensorsSyntaxError, '{"a\\x": 1}', 0),
    (errors.SafetensorsSyntaxError, '{"a\n": 1}', 0),
    (errors.SafetensorsSyntaxError, one(f"{DTYPE}, {SHAPE}, {OFFSETS},"), 8),
    (errors.SafetensorsSyntaxError, one(f"{DTYPE} {SHAPE}, {OFFSETS}"), 8),
    (errors.SafetensorsSyntaxError, one(f'{DTYPE}, {SHAPE}, "data_offsets": [0, 8'), 8),
    (errors.SafetensorsSyntaxError, with_shape("[2" + " " * 5_000 + "]"), 8),
    (errors.SafetensorsDuplicateKeyError, one(f"{DTYPE}, {SHAPE}, {OFFSETS}, {SHAPE}"), 8),
    (errors.SafetensorsDuplicateKeyError, one(f"{DTYPE}, {DTYPE}, {SHAPE}, {OFFSETS}"), 8),
    (errors.SafetensorsDuplicateKeyError, '{"__metadata__": {}, "__metadata__": {}}', 0),
    (errors.SafetensorsDuplicateKeyError, '{"__metadata__": {"a": "1", "\\u0061": "2"}}', 0),
    (errors.SafetensorsUnknownFieldError, one(f'{DTYPE}, {SHAPE}, {OFFSETS}, "x": 1'), 8),
    (errors.SafetensorsMissingFieldError, one(f"{SHAPE}, {OFFSETS}"), 8),
    (errors.SafetensorsMissingFieldError, one(f"{DTYPE}, {OFFSETS}"), 8),
    (errors.SafetensorsMissingFieldError, one(f"{DTYPE}, {SHAPE}"), 8),
    (errors.SafetensorsMetadataError, '{"__metadata__": null}', 0),
    (errors.SafetensorsMetadataError, '{"__metadata__": {"a": 1}}', 0),
    (errors.SafetensorsMetadataError, '{"__metadata__": {"a": {}}}', 0),
    (errors.SafetensorsMetadataError, '{"__metadata__": {"a": "\\u0000"}}', 0),
    (errors.SafetensorsMetadataError, '{"__metadata__": {"a": "\\ud800"}}', 0),
    (errors.SafetensorsNameError, '{"": {}}', 0),
    (errors.SafetensorsNameError, '{"a\\u0000": {}}', 0),
    (errors.SafetensorsNameError, '{"a\\u0085": {}}', 0),
    (errors.SafetensorsNameError, '{"a\\udc00": {}}', 0),
    (errors.SafetensorsNameError, '{"' + "x" * (MAX_NAME + 1) + '": {}}', 0),
    (errors.SafetensorsDtypeError, one(f'"dtype": "F33", {SHAPE}, {OFFSETS}'), 8),
    (errors.SafetensorsDtypeError, one(f'"dtype": "f32", {SHAPE}, {OFFSETS}'), 8),
    (errors.SafetensorsDtypeError, one(f'"dtype": null, {SHAPE}, {OFFSETS}'), 8),
    (errors.SafetensorsShapeError, with_shape("2"), 8),
    (errors.SafetensorsShapeError, with_shape("[-2]"), 8),
    (errors.SafetensorsShapeError, with_shape("[2.0]"), 8),
    (errors.SafetensorsShapeError, with_shape("[true, 2]"), 8),
    (errors.SafetensorsShapeError, with_shape('["2"]'), 8),
    (errors.SafetensorsShapeError, with_shape("[[2]]"), 8),
    (errors.SafetensorsShapeError, with_shape("[2,]"), 8),
    (errors.SafetensorsShapeError, with_shape("[02]"), 8),
    (errors.SafetensorsShapeError, with_shape("[2\u00a0]"), 8),
    (errors.SafetensorsShapeError, with_shape("[\u0662]"), 8),
    (errors.SafetensorsShapeError, with_shape("[" + "9" * 1_000 + "]"), 8),
    (errors.SafetensorsRankError, with_shape("[" + "1," * MAX_RANK + "2]"), 8),
    (errors.SafetensorsOffsetsError, with_offsets("8"), 8),
    (errors.SafetensorsOffsetsError, with_offsets("[8]"), 8),
    (errors.SafetensorsOffsetsError, with_offsets("[0, 8, 8]"), 8),
    (errors.SafetensorsOffsetsError, with_offsets("[-0, 8]"), 8),
    (errors.SafetensorsOffsetsError, with_offsets("[0, 8.0]"), 8),
    (errors.SafetensorsOffsetsError, with_offsets("[false, 8]"), 8),
    (errors.SafetensorsOffsetsError, with_offsets("[8, 0]"), 8),
    (errors.SafetensorsOverflowError, with_shape(f"[{2**63}]"), 8),
    (errors.SafetensorsOverflowError, with_shape(f"[{2**62}, 4]"), 8),
    (errors.SafetensorsOverflowError, with_shape(f"[0, {2**62}, {2**62}]"), 0),
    (errors.SafetensorsSizeMismatchError, with_shape("[3]"), 8),
    (errors.SafetensorsSizeMismatchError, with_shape("[0]"), 8),
    (errors.SafetensorsSizeMismatchError, one(f'"dtype": "F4", "shape": [3], {OFFSETS}'), 8),
    (errors.SafetensorsTruncatedError, with_offsets("[0, 8]"), 7),
    (errors.SafetensorsTruncatedError, with_offsets(f"[{2**62}, {2**62 + 8}]"), 8),
    (errors.SafetensorsHoleError, with_offsets("[1, 9]"), 9),
    (errors.SafetensorsTrailingBytesError, with_offsets("[0, 8]"), 9),
    (errors.SafetensorsTrailingBytesError, "{}", 1),
]


@pytest.mark.parametrize(("error", "header", "body"), BROKEN)
def test_a_broken_header_is_refused_with_its_own_error(error, header, body) -> None:
    with pytest.raises(error) as caught:
        read(header, body)
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.endswith(".")
    assert message.isprintable()
    assert caught.value.remedy
    if "layer.weight" in str(header) and error is not errors.SafetensorsSyntaxError:
        assert "'layer.weight'" in message


def test_a_tensor_listed_twice_is_refused_by_name() -> None:
    a = json.dumps(entry(0, 1))
    with pytest.raises(errors.SafetensorsDuplicateKeyError, match=r"'same\.name'"):
        read(f'{{"same.name": {a}, "same.n\\u0061me": {a}}}', 1)


def test_overlapping_tensors_are_refused_by_name() -> None:
    with pytest.raises(errors.SafetensorsOverlapError, match="'b' overlaps tensor 'a'"):
        read({"a": entry(0, 4), "b": entry(3, 6)}, 6)


def test_a_hole_between_tensors_is_refused_by_name() -> None:
    with pytest.raises(errors.SafetensorsHoleError, match="2 bytes before tensor 'b'"):
        read({"a": entry(0, 4), "b": entry(6, 8)}, 8)


@pytest.mark.parametrize("size", range(8))
def test_a_file_too_short_for_a_length_is_refused(size) -> None:
    with pytest.raises(errors.SafetensorsTruncatedError):
        read_header_size(bytes(size), size)


def test_a_header_longer_than_the_file_is_refused() -> None:
    with pytest.raises(errors.SafetensorsTruncatedError):
        read_header_size(struct.pack("<Q", 100), 107)
    assert read_header_size(struct.pack("<Q", 100), 108) == 108


def test_a_header_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(errors.SafetensorsHeaderTooLargeError):
        read_header_size(struct.pack("<Q", MAX_HEADER + 1), 2**40)


def test_a_header_that_was_read_short_is_refused() -> None:
    data = framed("{}")
    with pytest.raises(errors.SafetensorsTruncatedError):
        parse(data[:-1], len(data))


def test_one_tensor_too_many_is_refused() -> None:
    assert len(read({str(i): entry(0, 0) for i in range(MAX_TENSORS)}).tensors) == MAX_TENSORS
    with pytest.raises(errors.SafetensorsTooManyTensorsError):
        read({str(i): entry(0, 0) for i in range(MAX_TENSORS + 1)})


def test_one_metadata_key_too_many_is_refused() -> None:
    assert len(read({"__metadata__": {str(i): "" for i in range(MAX_METADATA_KEYS)}}).metadata) == MAX_METADATA_KEYS
    with pytest.raises(errors.SafetensorsMetadataError):
        read({"__metadata__": {str(i): "" for i in range(MAX_METADATA_KEYS + 1)}})


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2", "BOOL", "F8_E8M0", "BF16", "C64", "U64"])
def test_every_dtype_takes_what_the_library_takes(dtype) -> None:
    bits = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BF16": 16, "C64": 64, "U64": 64}.get(dtype, 8)
    data = framed(json.dumps({"a": entry(0, bits, dtype=dtype, shape=[2, 4])})) + bytes(bits)
    assert parse(data[:-bits], len(data)).tensors[0].size == bits
    assert len(safetensors.deserialize(data)[0][1]["data"]) == bits


FULL = MAX_HEADER - 64
ATTACKS = {
    "nested lists": b'{"a": ' + b"[" * FULL,
    "nested objects": b'{"a":' * (FULL // 5),
    "nested lists in a shape": b'{"a": {"shape": ' + b"[" * FULL,
    "a giant integer": b'{"a": {"shape": [' + b"9" * FULL + b"]}}",
    "a giant shape": b'{"a": {"shape": [' + b"1," * (FULL // 2) + b"1]}}",
    "spaces in a shape": b'{"a": {"shape": [1' + b" " * FULL + b"x]}}",
    "spaces and commas": b'{"a": {"shape": [' + b" , " * (FULL // 3) + b"]}}",
    "a giant name": b'{"' + b"n" * FULL + b'": {}}',
    "a giant dtype": b'{"a": {"dtype": "' + b"F" * FULL + b'"}}',
    "empty tensors": b"{" + b'"a":{},' * (FULL // 8),
    "white space": b"{" + b"\n" * FULL + b"x",
    "metadata keys": b'{"__metadata__": {' + b",".join(b'"%x":""' % i for i in range(1_500_000)) + b"}}",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_of_full_size_costs_little(attack) -> None:
    data = framed(ATTACKS[attack])
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(errors.SafetensorsError):
        parse(data, 2**40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - started < 5
    assert peak < 200 * 2**20


def test_the_largest_legal_header_is_read_in_bounds() -> None:
    entries = {f"{i:06}".ljust(90, "n"): entry(i, i + 1) for i in range(MAX_TENSORS)}
    data = framed(json.dumps(entries, separators=(",", ":")))
    assert len(data) > 0.85 * MAX_HEADER
    started = time.process_time()
    assert len(parse(data, len(data) + MAX_TENSORS).tensors) == MAX_TENSORS
    assert time.process_time() - started < 10
