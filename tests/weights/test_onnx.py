"""Each rule has a model that breaks only that rule."""

import struct
import time

import pytest

from registry.weights import errors, external, onnx, protobuf
from registry.weights.onnx import MAX_NAME, MAX_RANK, header
from registry.weights.tensors import Header, Tensor
from tests.weights.onnx_file import BF16, F16, F64, I4, I64, STRING, block, entry, model, number, sample, tensor, varint


def look(data: bytes) -> Header | None:
    return header(len(data), lambda offset, length: data[offset : offset + length])


def read(*tensors: bytes) -> Header:
    found = look(model(*tensors))
    assert found is not None
    return found


def test_initializers_that_are_arrays_are_told_where_they_lie() -> None:
    data = sample()
    found = look(data)
    assert found is not None
    assert [(t.name, t.dtype, t.shape, data[t.offset : t.offset + t.size]) for t in found.tensors] == [
        ("conv.weight", "F32", (2, 3), struct.pack("<6f", *range(6))),
        ("conv.bias", "F16", (4,), bytes(8)),
        ("scale", "F32", (3,), struct.pack("<3f", 1, 2, 3)),
        ("packed", "I4", (3,), b"\x21\x03"),
    ]
    assert found.size == found.tensors[0].offset
    assert not found.elsewhere


def test_what_a_model_says_of_itself_is_metadata() -> None:
    found = look(sample())
    assert found is not None
    assert found.metadata == {
        "stride": "32",
        "onnx.ir_version": "9",
        "onnx.opset": "ai.onnx 17",
        "onnx.producer": "exporter",
        "onnx.producer_version": "2.0",
        "onnx.graph": "main",
        "onnx.inputs": "x F32[1, n]",
        "onnx.outputs": "y F16[]",
    }


def test_inputs_that_are_initializers_are_not_told_as_inputs() -> None:
    found = read(tensor("x", (1,), raw=bytes(4)))
    assert "onnx.inputs" not in found.metadata


def test_arrays_of_strings_and_of_varints_are_not_told() -> None:
    found = read(
        tensor("strings", (1,), STRING, more=block(6, "a")),
        tensor("varints", (2,), I64, more=block(7, varint(-1) + varint(3))),
        tensor("unpacked", (1,), more=varint(4 << 3 | 5) + bytes(4)),
        tensor("halves", (2,), F16, more=block(5, b"\1\2")),
        tensor("in two pieces", (2,), more=block(4, bytes(4)) + block(4, bytes(4))),
        tensor("none", (2,)),
        tensor("doubles", (2,), F64, more=block(10, bytes(16))),
    )
    assert [t.name for t in found.tensors] == ["doubles"]


def test_dimensions_may_be_packed() -> None:
    data = block(1, varint(2) + varint(3)) + number(2, BF16) + block(8, "w") + block(9, bytes(12))
    assert read(data).tensors[0].shape == (2, 3)


def test_external_data_is_told_by_the_file_that_has_it() -> None:
    found = look(sample(elsewhere=True))
    assert found is not None
    assert found.elsewhere == {"model.data": (Tensor("big", "F32", (8,), 64, 32),)}
    assert "big" not in {t.name for t in found.tensors}


def test_external_data_need_not_say_where_it_begins_or_ends() -> None:
    found = read(tensor("w", (2,), external={"location": "w", "checksum": "x"}))
    assert found.elsewhere == {"w": (Tensor("w", "F32", (2,), 0, 8),)}


def test_nodes_are_stepped_over_whatever_they_hold() -> None:
    inside = block(1, block(5, block(5, tensor("in a node", (2**20,), raw=bytes(2**22)))))
    data = model(tensor("w", (1,), raw=bytes(4)), graph=inside * 3)
    amount = 0

    def noted(offset: int, length: int) -> bytes:
        nonlocal amount
        amount += length
        return data[offset : offset + length]

    found = header(len(data), noted)
    assert found is not None
    assert [t.name for t in found.tensors] == ["w"]
    assert amount < 100_000


def truncated(data: bytes, cut: int = 1) -> bytes:
    return data[:-cut]


def raw(shape: tuple[int, ...], size: int, kind: int = 1) -> bytes:
    return model(tensor("w", shape, kind, raw=bytes(size)))


def placed(**keys: str) -> bytes:
    return model(tensor("w", (2,), external=keys))


GRAPH = block(7, block(2, "main"))
BROKEN: list[tuple[bytes, type[errors.OnnxError], str]] = [
    (b"", errors.OnnxNotModelError, "no graph"),
    (number(1, 9), errors.OnnxNotModelError, "no graph"),
    (GRAPH, errors.OnnxNotModelError, "no ir_version"),
    (tensor("w", (1,), raw=bytes(4)), errors.OnnxSyntaxError, "producer"),
    (bytes(100), errors.OnnxSyntaxError, "byte 0"),
    (b"\x89PNG\r\n\x1a\n" + bytes(50), errors.OnnxSyntaxError, "byte"),
    (b"\x80" * 20, errors.OnnxSyntaxError, "byte 0 has no end"),
    (number(1, 9) + varint(2**32) + b"\0", errors.OnnxSyntaxError, "byte 2"),
    (number(1, 9) + b"\x0b", errors.OnnxSyntaxError, "known type"),  # a group
    (block(1, "x"), errors.OnnxSyntaxError, "ir_version"),
    (number(1, 9) + number(7, 1), errors.OnnxSyntaxError, "graph"),
    (number(1, 9) + GRAPH * 2, errors.OnnxSyntaxError, "two graphs"),
    (model(b"\x0a\x7f"), errors.OnnxSyntaxError, "ends at"),
    (model(tensor("w", (1,), raw=bytes(4)) + number(8, 1)), errors.OnnxSyntaxError, "name"),
    (truncated(sample()), errors.OnnxTruncatedError, "cut short"),
    (sample()[:200], errors.OnnxTruncatedError, "cut short"),
    (model(tensor("", (1,), raw=bytes(4))), errors.OnnxNameError, "''"),
    (model(tensor(b"\xff", (1,), raw=bytes(4))), errors.OnnxNameError, "UTF-8"),
    (model(tensor("a\nb", (1,), raw=bytes(4))), errors.OnnxNameError, "UTF-8"),
    (model(tensor("n" * (MAX_NAME + 1), (1,), raw=bytes(4))), errors.OnnxNameError, "nnn"),
    (model(*[tensor("w", (1,), raw=bytes(4))] * 2), errors.OnnxDuplicateNameError, "'w'"),
    (raw((1,), 4, kind=0), errors.OnnxDtypeError, "type 0"),
    (raw((1,), 4, kind=99), errors.OnnxDtypeError, "'w'"),
    (raw((-1,), 4), errors.OnnxShapeError, "'w'"),
    (raw((2**40, 2**40), 4), errors.OnnxShapeError, "'w'"),
    (raw((0, 2**62, 2**62), 0), errors.OnnxShapeError, "'w'"),
    (raw((1,) * (MAX_RANK + 1), 4), errors.OnnxShapeError, "more than 32"),
    (model(tensor("w", (), raw=bytes(4)) + block(1, b"\1" * 40)), errors.OnnxShapeError, "'w'"),
    (raw((2,), 4), errors.OnnxSizeMismatchError, "not the 8 of F32"),
    (raw((3,), 3, kind=I4), errors.OnnxSizeMismatchError, "not the 2 of I4"),
    (model(tensor("w", (1,), raw=bytes(4)) + block(9, bytes(4))), errors.OnnxSizeMismatchError, "twice"),
    (model(tensor("w", (1,), raw=bytes(4), more=block(4, bytes(4)))), errors.OnnxSizeMismatchError, "twice"),
    (model(tensor("w", (1,), raw=bytes(4), external={"location": "x"})), errors.OnnxSizeMismatchError, "twice"),
    (placed(), errors.OnnxExternalError, "'w'"),
    (placed(location="x", offset="-1"), errors.OnnxExternalError, "'w'"),
    (placed(location="x", offset="9" * 19), errors.OnnxExternalError, "'w'"),
    (placed(location="x", length="8 "), errors.OnnxExternalError, "'w'"),
    (placed(location="x", offset="١"), errors.OnnxExternalError, "'w'"),
    (placed(location="x" * 5000), errors.OnnxExternalError, "4,096"),
    (placed(location="x", length="9"), errors.OnnxSizeMismatchError, "'w'"),
]


@pytest.mark.parametrize(("data", "error", "named"), BROKEN)
def test_a_model_that_breaks_one_rule_is_refused_with_its_error(data, error, named) -> None:
    with pytest.raises(error, match=named) as caught:
        look(data)
    assert type(caught.value) is error
    assert str(caught.value).endswith(".")


def test_more_initializers_than_allowed_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(onnx, "MAX_TENSORS", 3)
    tensors = [tensor(f"w{i}", (1,), raw=bytes(4)) for i in range(4)]
    assert len(read(*tensors[:3]).tensors) == 3
    with pytest.raises(errors.OnnxTooManyTensorsError):
        read(*tensors)


def test_every_truncation_is_refused() -> None:
    data = sample(elsewhere=True)
    for size in range(data.index(block(8, number(2, 17)))):  # after the graph, what is left out may be left out
        with pytest.raises(errors.OnnxError):
            look(data[:size])


@pytest.mark.parametrize("what", ["fields", "reads", "bytes"])
def test_a_model_that_takes_too_much_reading_is_stored_without_looking_inside(what, monkeypatch) -> None:
    if what == "fields":
        data = model(graph=block(1, b"") * (protobuf.MAX_FIELDS + 1))
    elif what == "reads":
        monkeypatch.setattr(protobuf, "MAX_READS", 10)
        data = model(*[tensor(f"w{i}", (10_000,), raw=bytes(40_000)) for i in range(12)])
    else:
        data = model(graph=block(1, bytes(200)) * 90_000)
    started = time.process_time()
    assert look(data) is None
    assert time.process_time() - started < 5


def test_the_costliest_models_stay_in_bounds() -> None:
    many = model(*[tensor(f"model.layers.{i}.bias", (1,), raw=bytes(4)) for i in range(100_000)])
    for data in (many, model(graph=block(1, b"") * 900_000), model(more=block(14, b"") * 900_000)):
        started = time.process_time()
        found = look(data)
        assert time.process_time() - started < 5
        assert found is not None


def test_a_large_model_is_read_in_few_small_reads() -> None:
    data = model(*[tensor(f"layers.{i}.weight", (2**18,), raw=bytes(2**20)) for i in range(40)], nodes=5000)
    asked = []

    def noted(offset: int, length: int) -> bytes:
        asked.append(length)
        return data[offset : offset + length]

    found = header(len(data), noted)
    assert found is not None
    assert len(found.tensors) == 40
    assert len(asked) < 60
    assert sum(asked) < 2**20


def elsewhere(**files: list[Tensor]) -> Header:
    return Header((), {}, 10, elsewhere={name.replace("_", "."): tuple(each) for name, each in files.items()})


def f32(name: str, offset: int, count: int = 2) -> Tensor:
    return Tensor(name, "F32", (count,), offset, 4 * count)


@pytest.mark.parametrize(
    "location",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../x",
        "a/..",
        "a\\x",
        "C:/x",
        "a//x",
        "x/",
        ".",
        "x\0",
        "x\n",
        "x" * 1025,
        "\u202ex",
    ],
)
def test_external_data_outside_the_folder_of_its_model_is_refused(location) -> None:
    own = {"sub/m.onnx": Header((), {}, 10, elsewhere={location: (f32("w", 0),)})}
    with pytest.raises(errors.OnnxExternalPathError, match="plain path"):
        external.headers(own, {"sub/m.onnx": 10, "x": 100, "sub/x": 100})


@pytest.mark.parametrize("location", ["x.data", "./x.data", "deep/x.data"])
def test_external_data_belongs_to_the_file_beside_its_model(location) -> None:
    own = {"sub/m.onnx": Header((), {}, 10, elsewhere={location: (f32("b", 8), f32("a", 0))})}
    target = "sub/" + location.removeprefix("./")
    assert external.headers(own, {target: 16}) == {target: Header((f32("a", 0), f32("b", 8)), {}, 0)}


def test_external_data_that_is_not_there_is_refused() -> None:
    with pytest.raises(errors.OnnxExternalMissingError, match=r"sub/m\.onnx places tensors in sub/m\.data") as caught:
        external.headers({"sub/m.onnx": elsewhere(m_data=[f32("w", 0)])}, {"m.data": 100})
    assert caught.value.details["file"] == "sub/m.data"


def test_external_data_behind_the_end_of_its_file_is_refused() -> None:
    own = {"m.onnx": elsewhere(m_data=[f32("w", 8)])}
    assert external.headers(own, {"m.data": 16})
    with pytest.raises(errors.OnnxExternalRangeError, match="'w'"):
        external.headers(own, {"m.data": 15})


def test_two_models_may_share_a_file_of_external_data() -> None:
    own = {
        "a.onnx": elsewhere(m_data=[f32("w", 0), f32("v", 8)]),
        "b.onnx": elsewhere(m_data=[f32("u", 16), f32("w", 0)]),
    }
    found = external.headers(own, {"m.data": 24})["m.data"]
    assert [t.name for t in found.tensors] == ["w", "v", "u"]


def test_of_tensors_that_share_bytes_the_first_is_kept() -> None:
    own = {"a.onnx": elsewhere(m_data=[f32("head", 0, 4), f32("embedding", 0, 4), f32("part", 8), f32("next", 16)])}
    found = external.headers(own, {"m.data": 24})["m.data"]
    assert [t.name for t in found.tensors] == ["embedding", "next"]


def test_a_header_of_its_own_wins_over_what_others_say() -> None:
    own = {"a.onnx": elsewhere(w_safetensors=[f32("w", 0)]), "w.safetensors": Header((), {}, 8)}
    assert external.headers(own, {"w.safetensors": 100}) == {}


def test_all_that_is_placed_in_one_file_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(external, "MAX_TENSORS", 3)
    with pytest.raises(errors.OnnxTooManyTensorsError, match=r"m\.data"):
        external.headers({"a.onnx": elsewhere(m_data=[f32(f"w{i}", 8 * i) for i in range(4)])}, {"m.data": 100})


def test_long_texts_of_metadata_are_cut() -> None:
    found = look(model(more=block(14, entry("names", "x" * 5000)) + block(14, block(1, "nul") + block(2, b"\0\xff"))))
    assert found is not None
    assert found.metadata["names"] == "x" * 1024 + "… (5,000 bytes)"
    assert found.metadata["nul"] == "\ufffd\ufffd"
