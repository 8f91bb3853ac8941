import hashlib
import json
import os
import random
import struct
import time
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.weights import confined, segments, torch_tensors, torch_zip
from registry.weights.arrays import as_array
from registry.weights.formats import facts
from registry.weights.tensors import Header
from registry.weights.torch_zip import open_archive
from tests.weights.torch_file import (
    File,
    Made,
    Named,
    Outside,
    archive,
    module,
    ordered,
    parameter,
    pickled,
    saved,
    tensor,
    zipped,
)

DATA = Path(__file__).parents[1] / "data" / "torch"
EXPECTED = json.loads((DATA / "expected.json").read_text())
STORAGES = {"0": np.arange(6, dtype="<f4").tobytes(), "1": np.arange(4, dtype="<f4").tobytes()}


def header(data: bytes) -> Header:
    found = torch_zip.header(len(data), File(data))
    assert found is not None
    assert segments.cut(len(data), found)[0].offset == 0
    return found


def names(value: Any, storages: dict[str, bytes] = STORAGES, **more: Any) -> list[str]:
    return [tensor.name for tensor in header(saved(value, storages, **more)).tensors]


def no_header(data: bytes) -> None:
    assert torch_zip.header(len(data), File(data)) is None


@pytest.mark.parametrize("name", EXPECTED)
def test_tensors_of_files_of_torch_are_those_that_torch_reads(name) -> None:
    data = (DATA / name).read_bytes()
    found = {
        each.name: [each.dtype, list(each.shape), hashlib.sha256(data[each.offset :][: each.size]).hexdigest()]
        for each in header(data).tensors
    }
    assert found == EXPECTED[name]


def test_tied_weights_of_a_file_of_torch_are_told() -> None:
    metadata = header((DATA / "state_dict.pt").read_bytes()).metadata
    assert json.loads(metadata["torch.alias_of"]) == {"tied.weight": "body.0.weight"}
    assert metadata["torch.version"] == "3"
    assert header((DATA / "mixed.pt").read_bytes()).metadata["torch.unlisted"] == "2"


def test_a_legacy_file_has_no_header_and_is_published_as_bytes() -> None:
    data = (DATA / "legacy.pt").read_bytes()
    no_header(data)
    found = facts("legacy.pt", len(data), File(data))
    assert (found.format, found.pickle, found.header.tensors) == ("pytorch", True, ())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_gives_its_keys(protocol) -> None:
    value: Any = ordered({"a.weight": tensor("0", 2, 3), "a.bias": tensor("1", 4)})
    data = saved(value, STORAGES, protocol=protocol)
    found = {each.name: as_array(each, data[each.offset :][: each.size]) for each in header(data).tensors}
    assert found["a.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["a.bias"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("key", ["state_dict", "model", "ema", "module", "model_state_dict"])
def test_the_one_wrapper_is_left_out_of_the_names(key) -> None:
    state = ordered({"a.weight": tensor("0", 6)})
    assert names({key: state, "epoch": 3, "args": {"lr": [0.1]}}) == ["a.weight"]
    assert names({"epoch": 3, "model": {key: state}}) == ["a.weight"]
    assert names({key: state, "best": tensor("1", 1)}) == ["a.weight", "best"]


def test_names_keep_their_full_path_where_there_is_more_than_one_place_or_no_known_wrapper() -> None:
    weights, moment = {"w": tensor("0", 6)}, {0: {"exp_avg": tensor("1", 4)}}
    assert names({"model": weights, "optimizer": {"state": moment}}) == ["model.w", "optimizer.state.0.exp_avg"]
    assert names({"encoder": weights}) == ["encoder.w"]
    assert names([tensor("0", 6), {"a": tensor("1", 4)}]) == ["0", "1.a"]
    assert names(tensor("0", 6)) == ["tensor"]


def test_a_module_gives_the_names_of_its_state_dict() -> None:
    conv = module("Conv", parameters={"weight": parameter(tensor("0", 2, 3)), "bias": None}, anchors=tensor("1", 4))
    norm = module("Norm", buffers={"mean": tensor("1", 2), "scratch": tensor("1", 2, start=2)}, passing=["scratch"])
    net = module(
        "Net", modules={"model": module("Seq", modules={"0": conv, "1": norm})}, stride=tensor("1", 1, start=3)
    )
    values: list[Any] = [net, {"model": net, "ema": None}, {"model": None, "ema": net, "train_args": {}}]
    for value in values:
        assert names(value) == ["model.0.weight", "model.1.mean"]


def test_objects_give_their_attributes_and_named_tuples_their_positions() -> None:
    thing = Made(Named("mine", "Thing"), (tensor("0", 6),), {"w": tensor("1", 2)})
    assert names({"x": thing}) == ["x.0", "x.w"]
    slotted = Made(Named("mine", "Slotted"), (), (None, {"w": tensor("1", 2)}))
    assert names({"x": slotted}) == ["x.w"]


STORED_AS = {
    "BFloat16Storage": ("BF16", 2),
    "BoolStorage": ("BOOL", 1),
    "ByteStorage": ("U8", 1),
    "CharStorage": ("I8", 1),
    "ComplexFloatStorage": ("C64", 8),
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "IntStorage": ("I32", 4),
    "LongStorage": ("I64", 8),
    "ShortStorage": ("I16", 2),
}


@pytest.mark.parametrize("kind", STORED_AS)
def test_the_dtype_is_that_of_the_storage(kind) -> None:
    dtype, width = STORED_AS[kind]
    data = saved({"w": tensor("0", 2, kind=kind, start=1)}, {"0": bytes(3 * width)})
    (found,) = header(data).tensors
    assert (found.dtype, found.shape, found.size) == (dtype, (2,), 2 * width)


@pytest.mark.parametrize(("dtype", "expected"), [("float8_e4m3fn", "F8_E4M3"), ("uint16", "U16"), ("uint64", "U64")])
def test_a_storage_without_a_type_gets_it_from_the_tensor(dtype, expected) -> None:
    made = tensor("0", 2, kind="UntypedStorage", dtype=Named("torch", dtype))
    assert [each.dtype for each in header(saved({"w": made}, {"0": bytes(16)})).tensors] == [expected]


UNLISTED = {
    "another type": tensor("0", 2, kind="ComplexDoubleStorage"),
    "a type that is none": tensor("0", 2, kind="UntypedStorage", dtype="uint16"),
    "a dimension too many": tensor("0", *[1] * 33),
    "a negative dimension": tensor("0", -1),
    "a negative start": tensor("0", 1, start=-1),
    "a conjugate": tensor("0", 2, dtype=Named("torch", "complex64"), metadata={"conj": True}),
    "an unknown storage": tensor("9", 2),
    "beyond the storage": tensor("0", 7),
    "beyond it by its start": tensor("0", 4, start=3),
    "more than can be counted": tensor("0", 2**62, 2**62, 0),
    "no storage": Made(Named("torch._utils", "_rebuild_tensor_v2"), (1, 0, (2,), (1,), False, None)),
    "no such form": Made(Named("torch._utils", "_rebuild_tensor_v2"), (Outside(("x",)), 0, (2,), (1,), False, None)),
    "quantized": Made(Named("torch._utils", "_rebuild_qtensor"), (1, 2)),
    "sparse": Made(Named("torch._utils", "_rebuild_sparse_tensor"), (1, (tensor("0", 1), tensor("1", 1)))),
    "transposed": tensor("0", 2, 3, strides=(1, 2)),
    "every second": tensor("0", 3, strides=(2,)),
    "repeated": tensor("0", 3, strides=(0,)),
    "too few strides": tensor("0", 2, 3, strides=(1,)),
}


@pytest.mark.parametrize("why", UNLISTED)
def test_what_does_not_lie_there_in_order_is_counted_and_not_listed(why) -> None:
    found = header(saved({"no": UNLISTED[why], "yes": tensor("1", 4)}, STORAGES))
    assert [each.name for each in found.tensors] == ["yes"]
    assert found.metadata["torch.unlisted"] == "1"


def test_a_stride_says_nothing_where_there_is_one_element_or_none() -> None:
    value = {
        "one": tensor("0", 2, 1, 3, strides=(3, 99, 1)),
        "none": tensor("1", 0, 3, strides=(7, 7)),
        "scalar": tensor("1"),
    }
    assert sorted(names(value)) == ["none", "one", "scalar"]


def test_wrapped_tensors_are_unwrapped() -> None:
    inner = tensor("0", 6)
    typed = Made(Named("torch._tensor", "_rebuild_from_type_v2"), (inner.function, Named("mine", "T"), inner.args, {}))
    assert names({"w": parameter(typed)}) == ["w"]
    old = Made(Named("torch._utils", "_rebuild_tensor"), inner.args[:4])
    assert names({"w": Made(Named("torch._utils", "_rebuild_parameter_with_state"), (old, True, None, {}))}) == ["w"]


def test_tensors_that_share_bytes_are_listed_once() -> None:
    shared = tensor("0", 6)
    value = {
        "b": shared,
        "a": tensor("0", 6),
        "c": tensor("0", 2, 3),
        "d": tensor("0", 2, start=4),
        "e": tensor("1", 4),
    }
    found = header(saved(value, STORAGES))
    assert [each.name for each in found.tensors] == ["b", "e"]
    assert json.loads(found.metadata["torch.alias_of"]) == {"a": "b"}
    assert (found.metadata["torch.aliases"], found.metadata["torch.unlisted"]) == ("1", "2")


def test_tensors_side_by_side_in_one_storage_are_all_listed() -> None:
    assert names({"b": tensor("0", 2, start=4), "a": tensor("0", 4)}) == ["a", "b"]


@pytest.mark.parametrize("name", ["x" * 1025, "a\nb", "\ud800"])
def test_a_name_that_cannot_be_shown_is_not_listed(name) -> None:
    assert names({name: tensor("0", 6), "w": tensor("1", 4)}) == ["w"]


def test_of_two_tensors_with_one_name_the_first_is_listed() -> None:
    found = header(saved({"a.b": tensor("0", 6), "a": {"b": tensor("1", 4)}}, STORAGES))
    assert [(each.name, each.size) for each in found.tensors] == [("a.b", 24)]


def test_values_that_hold_themselves_and_values_that_are_shared_are_walked_once() -> None:
    loop: dict[str, Any] = {"w": tensor("0", 6)}
    loop["self"] = loop
    layers: list[Any] = []
    for _ in range(60):
        layers = [layers, layers]
    assert names({"model": loop, "x": layers}) == ["w"]


def test_what_lies_too_deep_is_not_seen() -> None:
    deep: Any = tensor("0", 6)
    for _ in range(200):
        deep = [deep]
    assert names({"x": deep, "w": tensor("1", 4)}) == ["w"]


def test_parts_are_the_members_and_storages_go_by_the_names_of_tensors() -> None:
    data = saved({"b": tensor("0", 6), "a": tensor("1", 4)}, STORAGES | {"2": b"unused"})
    found = header(data)
    assert found.parts is not None
    assert [part.name for part in found.parts] == ["data.pkl", "byteorder", "b", "a", "data/2", "version"]
    assert all(one.offset + one.size <= two.offset for one, two in zip(found.parts, found.parts[1:], strict=False))
    assert data[found.parts[4].offset :][: found.parts[4].size] == b"unused"


def test_other_numbers_of_the_storages_give_the_same_parts() -> None:
    one = header(saved({"a": tensor("0", 6), "b": tensor("1", 4)}, STORAGES)).parts
    two = header(saved({"a": tensor("7", 6), "b": tensor("8", 4)}, {"7": STORAGES["0"], "8": STORAGES["1"]})).parts
    assert one is not None
    assert two is not None
    assert [(part.name, part.size) for part in one[1:]] == [(part.name, part.size) for part in two[1:]]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_file_that_was_zipped_again_is_read_as_far_as_it_is_stored(method, streamed) -> None:
    with zipfile.ZipFile(BytesIO(saved({"w": tensor("0", 6)}, STORAGES))) as source:
        members = {name: source.read(name) for name in source.namelist()}
    found = header(zipped(members, method=method, streamed=streamed))
    assert [each.name for each in found.tensors] == (["w"] if method == zipfile.ZIP_STORED else [])
    assert found.metadata["torch.unlisted"] == ("0" if method == zipfile.ZIP_STORED else "1")


def test_reads_are_few_however_many_the_storages() -> None:
    count = 1000
    value = {f"layer.{i}.weight": tensor(str(i), 16) for i in range(count)}
    file = File(saved(value, {str(i): bytes(64) for i in range(count)}))
    started = time.process_time()
    found = torch_zip.header(len(file.data), file)
    assert time.process_time() - started < 1
    assert found is not None
    assert len(found.tensors) == count
    assert file.reads <= 6


def test_data_in_the_other_byte_order_has_no_header() -> None:
    no_header(saved({"w": tensor("0", 6)}, STORAGES, byteorder=b"big"))


FOREIGN = {
    "no pickle": {"m/version": b"3"},
    "no version": {"m/data.pkl": pickled({})},
    "no folder": {"data.pkl": pickled({}), "version": b"3"},
    "another folder first": {"other/x": b"", "m/data.pkl": pickled({}), "m/version": b"3"},
    "two pickles to who ignores case": {"m/data.pkl": pickled({}), "m/DATA.PKL": pickled({}), "m/version": b"3"},
}


@pytest.mark.parametrize("why", FOREIGN)
def test_a_zip_file_that_is_not_of_torch_has_no_header(why) -> None:
    no_header(archive(FOREIGN[why]))


def test_a_file_that_begins_with_something_else_has_no_header() -> None:
    data = bytearray(saved({"w": tensor("0", 6)}, STORAGES))
    data[:4] = b"\x80\x02K\x01"
    no_header(bytes(data))
    for broken in (b"", b"PK\x03\x04", pickled({}), bytes(data[:-1]), bytes(data) + b"x"):
        no_header(broken)


def test_a_pickle_that_another_local_header_names_has_no_header() -> None:
    data = bytearray(saved({"w": tensor("0", 6)}, STORAGES))
    data[30:40] = b"m/data.txt"
    no_header(bytes(data))


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x80\x02N", b"cos\nsystem\n\xff"])
def test_a_pickle_that_cannot_be_read_leaves_the_members_to_cut_at(content) -> None:
    found = header(archive({"m/data.pkl": content, "m/data/0": b"x" * 100, "m/version": b"3"}))
    assert (found.tensors, found.metadata["torch.pickle"]) == ((), "unreadable")
    assert found.parts is not None
    assert [part.name for part in found.parts][-2:] == ["data/0", "version"]


def test_too_many_tensors_are_not_listed(monkeypatch) -> None:
    monkeypatch.setattr(torch_tensors, "MAX_TENSORS", 1)
    assert header(saved({"a": tensor("0", 6), "b": tensor("1", 4)}, STORAGES)).metadata["torch.pickle"] == "unreadable"


def test_a_deflated_pickle_is_unpacked_to_its_size_and_no_further() -> None:
    data = zipped({"m/data.pkl": pickled(["x" * 100_000]), "m/version": b"3"}, method=zipfile.ZIP_DEFLATED)
    read = open_archive(len(data), File(data))
    assert read is not None
    assert read.pickle is not None
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x01\x02"))
    lying = bytearray(data)
    struct.pack_into("<L", lying, entry + 24, 1000)
    read = open_archive(len(data), File(bytes(lying)))
    assert read is not None
    assert (read.pickle, read.problem) == (None, "the pickle cannot be unpacked")


def test_a_wrong_checksum_is_told_and_read_past_as_torch_does() -> None:
    data = saved({"w": tensor("0", 6)}, STORAGES)
    wrong = data.replace(struct.pack("<L", zlib.crc32(pickled({"w": tensor("0", 6)}))), bytes(4))
    for each, crc in ((data, True), (wrong, False)):
        read = open_archive(len(each), File(each))
        assert read is not None
        assert read.crc is crc
        assert len(header(each).tensors) == 1


def test_names_in_the_pickle_are_told_and_nothing_runs(monkeypatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(os, "system", ran.append)
    evil = Made(Named("os", "system"), ("true",))
    data = saved({"w": tensor("0", 6), "x": evil}, STORAGES)
    read = open_archive(len(data), File(data))
    assert read is not None
    assert ("os", "system") in read.globals
    assert [each.name for each in header(data).tensors] == ["w"]
    found = facts("model.pt", len(data), File(data))
    assert (found.format, found.pickle) == ("pytorch", True)
    assert ran == []


def test_many_tensors_are_read_in_bounds() -> None:
    count = 20_000
    state = {f"layers.{i}.weight": tensor("0", 1, start=i) for i in range(count)}
    data = saved(state, {"0": bytes(4 * count)})
    started = time.process_time()
    assert len(header(data).tensors) == count
    assert time.process_time() - started < 3  # 0.6 s where nothing else runs


ROOM = 4 * 2**20
NUMBERS = range(60_000)
PRIME = 2**61 - 1  # Python hashes integers by what they leave when divided by it
BOMBS = {
    "calls": lambda: b"ccollections\nOrderedDict\nq\x00" + b"h\x00)RNNs" * (ROOM // 6),
    "collisions": lambda: b"}(" + b"".join(b"\x8a\x0b%bN" % (i * PRIME).to_bytes(11, "little") for i in NUMBERS) + b"u",
    "deep lists": lambda: b"]" * (ROOM // 2) + b"a" * (ROOM // 2 - 1),
    "deep tuples": lambda: b"N" + b"\x85" * ROOM,
    "dicts": lambda: b"}NNs" * (ROOM // 4),
    "empty tuples": lambda: b"(" + b")" * ROOM + b"l",
    "laughs": lambda: b"]q\x00" + b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 200)),
    "marks": lambda: b"(" * ROOM,
    "memo": lambda: b"N" + b"".join(b"r" + i.to_bytes(4, "little") for i in range(0, 4 * ROOM // 5, 4)),
    "numbers": lambda: b"M\xff\xff" * (ROOM // 3),
    "text": lambda: b"\x8c\x02\xc3\xa9" * (ROOM // 4),
    "zeros": lambda: bytes(ROOM),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_that_is_a_bomb_is_looked_into_within_the_bounds_of_any_file(name) -> None:
    members = {"m/data.pkl": b"\x80\x02" + BOMBS[name]() + b".", "m/data/0": b"x", "m/version": b"3"}
    data = zipped(members, method=zipfile.ZIP_DEFLATED)
    found = confined.facts("model.pt", len(data), File(data))
    assert (found.format, found.pickle) == ("pytorch", True)
    assert found.header.tensors == ()


def test_no_mutation_gives_anything_but_a_header_or_none() -> None:
    source = random.Random(3)
    seeds = [(DATA / name).read_bytes() for name in EXPECTED]
    for _ in range(3000):
        data = bytearray(source.choice(seeds))
        start = data.index(b"PK\x01\x02") if source.random() < 0.5 else 0
        end = len(data) if start else 1200
        for _ in range(source.randint(1, 4)):
            data[source.randrange(start, end)] = source.choice((0, 1, 255, source.randrange(256)))
        if source.random() < 0.1:
            del data[source.randrange(len(data)) :]
        found = torch_zip.header(len(data), File(bytes(data)))
        if found is None:
            continue
        segments.cut(len(data), found)
        ends = 0
        for each in found.tensors:
            assert ends <= each.offset <= each.offset + each.size <= len(data)
            ends = max(ends, each.offset + each.size)
