import json
import time
from typing import Any

import pytest

from registry.weights import errors
from registry.weights.sharded import MAX_INDEX, Index, check_shards, is_index, parse_index
from registry.weights.tensors import Header, Tensor

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
MAP = {"a": ONE, "b": ONE, "c": TWO}


def index(**changes: Any) -> bytes:
    return json.dumps({"metadata": {"total_size": 12}, "weight_map": MAP} | changes).encode()


def shard(*names: str) -> Header:
    return Header(tuple(Tensor(name, "F32", (1,), 100 + 4 * i, 4) for i, name in enumerate(names)), {}, 100)


def test_an_index_gives_its_map_and_size() -> None:
    read = parse_index(index())
    assert read == Index(MAP, 12)
    assert read.shards == (ONE, TWO)


@pytest.mark.parametrize("metadata", [{}, None, {"total_size": None}, {"format": "pt", "deep": [{"x": [1.5]}]}])
def test_an_index_need_not_tell_its_size(metadata) -> None:
    assert parse_index(index(metadata=metadata)).total_size is None


def test_an_index_without_metadata_passes() -> None:
    assert parse_index(json.dumps({"weight_map": MAP}).encode()).total_size is None


def test_a_whole_float_is_a_size() -> None:
    assert parse_index(index(metadata={"total_size": 12.0})).total_size == 12


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"{" * 100_000,
        b'{"weight_map": {}}',
        b'{"weight_map": null}',
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": {"a": "x.safetensors", "a": "x.safetensors"}}',
        b'{"weight_map": {"a": "x.safetensors"}, "weight_map": {"a": "x.safetensors"}}',
        b'{"metadata": {"total_size": 1, "total_size": 2}, "weight_map": {"a": "x.safetensors"}}',
        b'{"metadata": ' + b"[" * 60_000 + b', "weight_map": {"a": "x.safetensors"}}',
        b'{"metadata": {"total_size": ' + b"9" * 60_000 + b'}, "weight_map": {"a": "x.safetensors"}}',
        b'{"metadata": {"x": "' + b"x" * 70_000 + b'"}, "weight_map": {"a": "x.safetensors"}}',
        index() + b"x",
        index(more=1),
        index(metadata=[]),
        index(metadata={"total_size": -1}),
        index(metadata={"total_size": 1.5}),
        index(metadata={"total_size": "12"}),
        index(metadata={"total_size": True}),
        index(metadata={"total_size": float("nan")}),
        index(metadata={"total_size": float("inf")}),
        index(metadata={"total_size": 2**63}),
    ],
)
def test_a_malformed_index_is_refused(data) -> None:
    with pytest.raises(errors.ShardIndexInvalidError):
        parse_index(data)


@pytest.mark.parametrize(
    "file",
    [
        "",
        "x.bin",
        ".safetensors",
        "..safetensors",
        "../x.safetensors",
        "/x.safetensors",
        "sub/x.safetensors",
        "a\\x.safetensors",
        "c:x.safetensors",
        "x\0.safetensors",
        "x\n.safetensors",
        "x\u202e.safetensors",
        "\ud800.safetensors",
        "x" * 300 + ".safetensors",
    ],
)
def test_a_shard_outside_the_folder_of_its_index_is_refused(file) -> None:
    with pytest.raises(errors.ShardIndexInvalidError, match="no plain file name"):
        parse_index(json.dumps({"weight_map": {"a": file}}).encode())


def test_an_index_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(errors.ShardIndexTooLargeError):
        parse_index(b" " * (MAX_INDEX + 1))


def test_a_large_index_is_read_and_checked_in_bounds() -> None:
    weight_map = {f"model.layers.{i}.weight": f"model-{i % 20:05}.safetensors" for i in range(200_000)}
    started = time.process_time()
    parsed = parse_index(json.dumps({"weight_map": weight_map}).encode())
    headers = {file: shard(*(n for n, f in weight_map.items() if f == file)) for file in parsed.shards}
    check_shards("model.safetensors.index.json", parsed, headers)
    assert time.process_time() - started < 10


@pytest.mark.parametrize("folder", ["", "sub/", "a/b/"])
def test_shards_that_agree_pass_and_other_files_do_not_matter(folder) -> None:
    headers = {folder + ONE: shard("a", "b"), folder + TWO: shard("c"), folder + "consolidated.safetensors": shard("a")}
    check_shards(folder + "model.safetensors.index.json", parse_index(index()), headers)


@pytest.mark.parametrize(
    ("headers", "error", "named"),
    [
        ({ONE: shard("a", "b")}, errors.ShardMissingError, TWO),
        ({ONE: shard("a", "b"), "sub/" + TWO: shard("c")}, errors.ShardMissingError, TWO),
        ({ONE: shard("a"), TWO: shard("c")}, errors.ShardTensorMissingError, "'b'"),
        ({ONE: shard("a"), TWO: shard("b", "c")}, errors.ShardTensorMissingError, "'b'"),
        ({ONE: shard("a", "b", "d"), TWO: shard("c")}, errors.ShardTensorUnlistedError, "'d'"),
        ({ONE: shard("a", "b"), TWO: shard("c", "a")}, errors.ShardTensorDuplicateError, "'a'"),
    ],
)
def test_a_shard_that_disagrees_is_refused_by_name(headers, error, named) -> None:
    with pytest.raises(error, match=named):
        check_shards("model.safetensors.index.json", parse_index(index()), headers)


def test_a_total_size_that_is_not_the_sum_is_refused() -> None:
    with pytest.raises(errors.ShardTotalSizeError, match="11"):
        check_shards("x.json", parse_index(index(metadata={"total_size": 11})), {ONE: shard("a", "b"), TWO: shard("c")})


def test_an_index_is_known_by_its_name() -> None:
    assert is_index("a/model.safetensors.index.json")
    assert not is_index("pytorch_model.bin.index.json")
