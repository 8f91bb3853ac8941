import collections
import datetime as dt
import functools
import io
import os
import pickle
import pickletools
import random

import pytest

from registry.weights import pickle_reader
from registry.weights.pickle_reader import MAX_PICKLE, parse
from registry.weights.pickle_values import Call, Global, Key, Persistent, PickleError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN: list[object] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    255,
    256,
    65_536,
    -(2**31),
    2**31,
    2**70,
    -(2**80),
    1.5,
    -0.0,
    "",
    "a\né☃😀",
    (),
    (1,),
]
PLAIN += [(1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1], [1, [2, "x"]], {}, {"a": 1, 2: None, 1.5: [3]}, list(range(3000))]


def refused(data: bytes) -> PickleError:
    with pytest.raises(PickleError) as caught:
        parse(data)
    return caught.value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", PLAIN)
def test_plain_values_are_read_as_pickle_reads_them(protocol, value) -> None:
    data = pickle.dumps(value, protocol)
    read = parse(data)
    assert read.value == value
    assert type(read.value) is type(value)
    assert read.size == len(data)
    assert read.globals == ()


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_bytes_are_read(protocol) -> None:
    for value in (b"", b"abc", b"x" * 300):
        assert parse(pickle.dumps(value, protocol)).value == value


def test_a_set_becomes_a_list_and_a_key_that_is_no_scalar_is_wrapped() -> None:
    assert parse(pickle.dumps({1}, 4)).value == [1]
    assert parse(pickle.dumps(frozenset({1}), 4)).value == [1]
    read = parse(pickle.dumps({(1, 2): "x", 2**61: "y"})).value
    assert isinstance(read, dict)
    assert [key.value for key in read if isinstance(key, Key)] == [(1, 2), 2**61]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_is_remembered_and_not_made(protocol) -> None:
    read = parse(pickle.dumps(collections.OrderedDict(a=1, b=[2]), protocol))
    assert isinstance(read.value, Call)
    assert isinstance(read.value.function, Global)
    assert (read.value.function.module, read.value.function.name) == ("collections", "OrderedDict")
    assert read.globals == (("collections", "OrderedDict"),)
    if protocol > 1:
        assert (read.value.args, read.value.items) == ((), {"a": 1, "b": [2]})


class Thing:
    def __init__(self) -> None:
        self.inner: object = None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_state_of_an_object_is_beside_the_call(protocol) -> None:
    thing = Thing()
    thing.inner = [thing]
    read = parse(pickle.dumps(thing, protocol)).value
    assert isinstance(read, Call)
    assert isinstance(read.state, dict)
    assert read.state["inner"][0] is read


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_persists_elsewhere_is_known_by_its_id(protocol) -> None:
    written = _Outside.dumps({"a": Thing()}, protocol)
    read = parse(written).value
    assert isinstance(read, dict)
    assert isinstance(read["a"], Persistent)
    assert read["a"].id == "outside"


class _Outside(pickle._Pickler):
    def persistent_id(self, obj):
        return "outside" if isinstance(obj, Thing) else None

    @classmethod
    def dumps(cls, value, protocol):
        buffer = io.BytesIO()
        cls(buffer, protocol).dump(value)
        return buffer.getvalue()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_name_is_told_and_nothing_runs(protocol, tmp_path, monkeypatch) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {marker}",))

    monkeypatch.setattr(os, "system", lambda _command: marker.write_text("ran"))
    data = pickle.dumps({"w": 1}, protocol)[:-1] + b"0" + b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    read = parse(data)
    assert read.globals == (("os", "system"),)
    assert isinstance(read.value, Call)
    assert read.value.args == (f"touch {marker}",)
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists()  # the same bytes do run where they are loaded
    monkeypatch.undo()
    assert parse(pickle.dumps(Evil(), protocol)).globals == ((os.system.__module__, "system"),)


def test_nothing_is_imported(monkeypatch) -> None:
    monkeypatch.setattr("builtins.__import__", lambda *_: pytest.fail("imported"))
    assert parse(b"\x80\x02cno.such.module\nname\n.").globals == (("no.such.module", "name"),)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", [("os", "system")]),
        (b"(ios\nsystem\n.", [("os", "system")]),
        (b"\x80\x02\x82\x07.", [("copyreg.extension", "7")]),
        (b"cos\nsystem\ncos\nsystem\ncbuiltins\neval\n.", [("os", "system"), ("builtins", "eval")]),
        (b"(cos\nsystem\nS'x'\no.", [("os", "system")]),
    ],
)
def test_names_are_told_however_they_are_written(data, names) -> None:
    assert list(parse(data).globals) == names


def test_names_before_a_fault_are_told() -> None:
    assert refused(b"cos\nsystem\n(S'x'\ntR\xff.").globals == (("os", "system"),)
    assert refused(b"cos\nsystem\n").globals == (("os", "system"),)


NONSENSE = [b"", b".", b"N", b"K", b"0.", b"t.", b"s.", b"NNs.", b"]NNs.", b"Na.", b"h\x00.", b"\x80\x06N."]
NONSENSE += [
    b"\x95" + b"\xff" * 8,
    b"X\xff\xff\xff\xffa.",
    b"Sx\n.",
    b"S'\\x41'\n.",
    b"Ix\n.",
    b"Fx\n.",
    b"NN\x93.",
    b"(NNNd.",
]
NONSENSE += [
    b"Nb.",
    b"NNb.",
    b"\x97.",
    b"(o.",
    b"\x8b\xff\xff\xff\xff.",
    b"p\n.",
    b"Np-1\n.",
    b"\x85.",
    b"N\x86.",
    b"(N1.",
]
NONSENSE += [b"\x8c\x01\xff.", b"cos\n", b"L" + b"9" * 5000 + b"\n.", b"\x8c\x01aN\x93."]


@pytest.mark.parametrize("data", NONSENSE)
def test_what_makes_no_sense_is_refused(data) -> None:
    refused(data)


def test_a_program_ends_at_its_end() -> None:
    read = parse(b"K\x01.cos\nsystem\n")
    assert (read.value, read.size, read.globals) == (1, 3, ())


def test_the_memo_may_be_in_any_order() -> None:
    assert parse(b"K\x07r\x05\x00\x00\x000K\x08q\x000h\x05h\x00\x86.").value == (7, 8)
    assert parse(b"K\x07q\x010K\x08q\x000K\x09q\x010h\x01h\x00\x86.").value == (9, 8)
    assert parse(b"K\x07p3\n0g3\n.").value == 7


def test_limits_hold(monkeypatch) -> None:
    assert "larger" in str(refused(b"N" * (MAX_PICKLE + 1)))
    monkeypatch.setattr(pickle_reader, "MAX_GLOBALS", 2)
    assert len(refused(b"ca\nb\nca\nc\nca\nd\n.").globals) == 2
    monkeypatch.setattr(pickle_reader, "MAX_COST", 10)
    assert "limit" in str(refused(b"N" * 20 + b"."))


def test_no_mutation_does_more_than_be_refused() -> None:
    source = random.Random(11)
    values = [
        {"a": [1, (2, 3.5)], "b": collections.OrderedDict(x=b"y")},
        functools.partial(print, 1),
        dt.date(2026, 1, 1),
    ]
    seeds = [pickle.dumps(value, protocol) for value in values for protocol in PROTOCOLS]
    read = 0
    for _ in range(6000):
        data = bytearray(source.choice(seeds))
        for _ in range(source.randint(1, 3)):
            data[source.randrange(len(data))] = source.randrange(256)
        try:
            parse(bytes(data))
            read += 1
        except PickleError:
            continue
    assert read


def test_every_instruction_of_python_is_known_but_those_for_buffers_elsewhere() -> None:
    known = set(pickle_reader._OPCODES)
    assert {op.code.encode("latin-1") for op in pickletools.opcodes} - known == {b"\x97", b"\x98"}
