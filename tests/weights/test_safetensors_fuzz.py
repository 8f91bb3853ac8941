"""What ours accepts, the safetensors library accepts and reads the same; what the library writes, ours accepts.

`REGISTRY_SOAK=1` tries many more files.
"""

import json
import os
import struct
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save, save_file

from registry.weights.errors import SafetensorsError
from registry.weights.safetensors import header_size, parse
from registry.weights.tensors import BITS, Header
from tests.weights.mutations import mutated

SOAK = os.environ.get("REGISTRY_SOAK") == "1"
fuzz = settings(
    max_examples=5_000 if SOAK else 300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TYPES = ["?", "u1", "i1", "<u2", "<i2", "<f2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8", "<c8"]
names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
arrays = st.sampled_from(TYPES).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
models = st.dictionaries(names.filter(lambda name: name != "__metadata__"), arrays, max_size=5)
metadata = st.none() | st.dictionaries(texts, texts, max_size=3)


def ours(data: bytes) -> Header:
    return parse(data[: header_size(data[:8], len(data))], len(data))


def check_subset(data: bytes) -> None:
    event(verdict(data))


def verdict(data: bytes) -> str:
    """The property: accepted here means accepted there, with the same tensors. Returns the error's code if refused."""
    try:
        header = ours(data)
    except SafetensorsError as error:
        return error.code
    theirs = {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in safetensors.deserialize(data)}
    assert theirs == {t.name: (t.dtype, t.shape, data[t.offset : t.offset + t.size]) for t in header.tensors}
    assert sum(t.size for t in header.tensors) + header.size == len(data)
    return "accepted"


@fuzz
@given(models, metadata)
def test_everything_the_library_writes_is_accepted(tmp_path_factory, model, extra) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    save_file(model, path, extra)
    data = path.read_bytes()
    check_subset(data)
    if not model and extra == {}:  # the library writes `{},"__metadata__":{}}` for it, and cannot read that itself
        return
    header = ours(data)
    assert {t.name for t in header.tensors} == set(model)
    assert header.metadata == (extra or {})


@fuzz
@given(models, metadata, st.data())
def test_a_file_with_bytes_flipped_is_read_as_the_library_reads_it(model, extra, data) -> None:
    content = bytearray(save(model, extra))
    end = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(8, end - 1) | st.integers(0, end - 1))
        content[where] = data.draw(st.sampled_from(b'{}[]",:0123456789 FBIUx\\') | st.integers(0, 255))
    check_subset(bytes(content))


@fuzz
@given(models, metadata, st.data())
def test_a_file_cut_or_grown_is_read_as_the_library_reads_it(model, extra, data) -> None:
    content = save(model, extra)
    where = data.draw(st.integers(0, len(content)))
    drop = data.draw(st.integers(0, 3))
    piece = data.draw(st.binary(max_size=3) | st.just(content[where : where + 8]))
    content = content[:where] + piece + content[where + drop :]
    check_subset(content)
    if len(content) > 16:  # and once more with a length that fits, so that the JSON itself is reached
        length = max(0, struct.unpack("<Q", content[:8])[0] + data.draw(st.integers(-4, 4))) % 2**20
        check_subset(struct.pack("<Q", length) + content[8:])


small = st.integers(0, 6)
integers = small | st.integers(-2, 2**65) | st.sampled_from([2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64])
scalars = st.none() | st.booleans() | integers | st.floats(0, 8) | st.text(max_size=3)
dtypes = st.sampled_from([*BITS])
shapes = st.lists(small, max_size=3)
strange_shapes = st.lists(integers, max_size=34) | scalars
strange_names = names | st.sampled_from(["a", "b", "", "__metadata__", "\ud800"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[tuple[str, Any]], int]:
    """Entries that mostly lie back to back, as pairs so that keys can repeat, and the length of the data."""

    def strange() -> bool:
        return draw(st.integers(0, 24)) == 17

    entries: list[tuple[str, Any]] = []
    position = 0
    for name in draw(st.lists(names, max_size=4)):
        dtype = draw(st.text(max_size=4)) if strange() else draw(dtypes)
        shape = draw(strange_shapes) if strange() else draw(shapes)
        size = draw(small)
        if dtype in BITS and isinstance(shape, list) and not strange():
            exact = int(np.prod([*shape, 1], dtype=object)) * BITS[dtype] // 8
            size = exact if 0 <= exact < 10_000 else size
        begin = position + (draw(st.sampled_from([1, -1])) if strange() else 0)
        fields: list[tuple[str, Any]] = [("dtype", dtype), ("shape", shape), ("data_offsets", [begin, begin + size])]
        if strange():
            fields[draw(st.integers(0, 2))] = (draw(st.sampled_from(["dtype", "shape", "x"])), draw(scalars))
        entries.append((draw(strange_names) if strange() else name, Fields(draw(st.permutations(fields)))))
        position += size
    if strange():
        pairs = draw(st.lists(st.tuples(st.sampled_from("ab"), texts | scalars), max_size=3))
        entries.append(("__metadata__", Fields(pairs)))
    return draw(st.permutations(entries)), position + (draw(st.sampled_from([1, -1])) if strange() else 0)


class Fields(list[tuple[str, Any]]):
    """A JSON object whose keys may repeat."""


def dumped(value: Any) -> str:
    if isinstance(value, Fields):
        return "{" + ", ".join(f"{json.dumps(key)}: {dumped(item)}" for key, item in value) + "}"
    return json.dumps(value)


@fuzz
@given(tables())
def test_a_strange_header_is_read_as_the_library_reads_it(table) -> None:
    entries, length = table
    text = dumped(Fields(entries)).encode()
    check_subset(struct.pack("<Q", len(text)) + text + (bytes(range(256)) * (length // 256 + 1))[: max(0, length)])


@fuzz
@given(st.binary(max_size=64) | st.text('{}[]":,0123 adtypeshp_\\u', max_size=64).map(str.encode))
def test_any_bytes_are_read_as_the_library_reads_them(data) -> None:
    check_subset(data)
    check_subset(struct.pack("<Q", len(data)) + data)


STRANGE = (
    "",
    "1",
    "-1",
    "1.0",
    "1e2",
    "null",
    "true",
    "[]",
    "{}",
    '"x"',
    "01",
    "18446744073709551616",
    "9223372036854775807",
)


def generated(random: Random) -> bytes:
    """A file that is mostly right: tensors back to back, with about one strange thing in two files."""
    odds = random.choice((0.0, 0.005, 0.02, 0.05))

    def maybe(text: str, *others: str) -> str:
        return random.choice((*others, *STRANGE)) if random.random() < odds else text

    space = "" if random.random() < 0.7 else " \n"
    entries, position = [], 0
    for index in range(random.choice((0, 1, 1, 2, 3, 5))):
        dtype = random.choice([*BITS])
        shape = [random.choice((0, 1, 2, 3, 8)) for _ in range(random.randrange(4))]
        size = int(np.prod([*shape, 1], dtype=object)) * BITS[dtype]
        end = position + (size + 7) // 8 if size % 8 == 0 or random.random() < 0.05 else position
        start = maybe(str(position), str(position + 1), str(end))
        stop = maybe(str(end), str(end + 1), str(position))
        fields = [
            f'"dtype":{space}{maybe(json.dumps(dtype), json.dumps(random.choice([*BITS])), json.dumps(dtype.lower()))}',
            f'"shape":{space}[{",".join(maybe(str(each)) for each in shape)}]',
            f'"data_offsets":{space}[{start},{stop}]',
        ]
        if random.random() < odds:
            fields[random.randrange(3)] = random.choice((*fields, '"x":1', '"dtype":"F32"', '"shape":null'))
        random.shuffle(fields)
        name = maybe(json.dumps(f"layer.{index}"), '"layer.0"', '"\\ud800"', '"\\u0000"', '"__metadata__"', '"é😀"')
        entries.append(f"{name}:{space}{{{','.join(fields)}}}")
        position += (size + 7) // 8 if size % 8 == 0 else 0
    if random.random() < 0.2:
        entries.append(
            f'"__metadata__":{maybe("{}")}' if random.random() < 0.3 else f'"__metadata__":{{"a":{maybe(chr(34) * 2)}}}'
        )
    random.shuffle(entries)
    text = maybe("{", "", "[{", "\ufeff{") + f",{space}".join(entries) + maybe("}", "", "}}", "},", "} ", "}\0")
    raw = text.encode("utf-8", "surrogatepass")
    length = len(raw) + (random.choice((-1, 1, 8)) if random.random() < odds else 0)
    return struct.pack("<Q", max(0, length)) + raw + bytes(max(0, position + (1 if random.random() < odds else 0)))


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(2_000, id="short"),
        pytest.param(100_000, id="full", marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_nothing_generated_is_accepted_that_the_library_refuses(count) -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(count):
        random = Random(seed)
        data = generated(random)
        if seed % 4 == 3:
            data = mutated(data, random)
        try:
            verdicts[verdict(data)] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    print(dict(verdicts.most_common()))
    assert verdicts["accepted"] > count // 5
    assert len(verdicts) > 15
