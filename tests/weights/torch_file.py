"""Files of torch made without torch: its pickles, by stand-ins for its classes, in zip files laid out as it does it."""

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Named:
    """What a module calls so."""

    module: str
    name: str

    def __call__(self) -> None:
        raise AssertionError("nothing is called")


@dataclass
class Made:
    """What a call gives, and what is done to it then."""

    function: Named
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outside:
    """What lies outside of the pickle, by its id."""

    id: Any


class _Pickler(pickle._Pickler):  # in Python, so that it can be taught; its stubs tell less than it has
    save: Any
    write: Any
    memoize: Any
    save_reduce: Any
    dispatch: ClassVar[Any] = dict(pickle._Pickler.dispatch)

    def __init__(self, file, protocol) -> None:
        super().__init__(file, protocol)
        self.named: dict[Named, Named] = {}

    def persistent_id(self, obj):
        return obj.id if isinstance(obj, Outside) else None

    def save_named(self, obj):
        first = self.named.setdefault(obj, obj)
        if first is not obj:
            self.save(first)
            return
        self.write(f"c{obj.module}\n{obj.name}\n".encode())
        self.memoize(obj)

    def save_made(self, obj):
        self.save_reduce(
            obj.function, obj.args, obj.state, None, iter(obj.items.items()) if obj.items else None, obj=obj
        )

    dispatch[Named] = save_named
    dispatch[Made] = save_made


def pickled(value: Any, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def ordered(entries: Mapping[str, Any]) -> Made:
    return Made(Named("collections", "OrderedDict"), (), None, dict(entries))


def tensor(key: str, *shape: int, kind: str = "FloatStorage", start: int = 0, strides: Any = None, **more: Any) -> Made:
    if strides is None:
        strides, step = [], 1
        for each in reversed(shape):
            strides.insert(0, step)
            step *= each
    storage = Outside(("storage", Named("torch", kind), key, "cpu", 1000))
    args = (storage, start, shape, tuple(strides), False, ordered({}), *more.values())
    return Made(Named("torch._utils", f"_rebuild_tensor_v{3 if 'dtype' in more else 2}"), args)


def parameter(made: Made) -> Made:
    return Made(Named("torch._utils", "_rebuild_parameter"), (made, True, ordered({})))


def module(name: str, *, parameters=(), buffers=(), modules=(), passing=(), **more: Any) -> Made:
    state = {
        "training": False,
        "_parameters": ordered(dict(parameters)),
        "_buffers": ordered(dict(buffers)),
        "_non_persistent_buffers_set": Made(Named("__builtin__", "set"), (list(passing),)),
        "_modules": ordered(dict(modules)),
    }
    return Made(Named("mine", name), (), state | more)


def saved(value: Any, storages: Mapping[str, bytes], *, protocol: int = 2, folder: str = "m", **more: bytes) -> bytes:
    """The file of `torch.save(value)`; `more` are further members."""
    members = {"data.pkl": pickled(value, protocol), "byteorder": b"little"}
    members |= {f"data/{key}": data for key, data in storages.items()}
    members |= {"version": b"3\n"} | {name.replace("__", "/"): data for name, data in more.items()}
    return archive({f"{folder}/{name}": data for name, data in members.items()})


def archive(members: Mapping[str, bytes]) -> bytes:
    """A zip file as torch lays it out: data at multiples of 64, described after it, and a wide end record."""
    out, directory = bytearray(), bytearray()
    for name, data in members.items():
        raw, at, crc = name.encode(), len(out), zlib.crc32(data)
        padding = -(at + 30 + len(raw) + 4) % 64
        flags = 0x808 if data else 0x800
        out += struct.pack("<4s5H3L2H", b"PK\x03\x04", 0, flags, 0, 0, 0, 0, 0, 0, len(raw), padding + 4)
        out += raw + struct.pack("<2sH", b"FB", padding) + b"Z" * padding + data
        if data:
            out += struct.pack("<4s3L", b"PK\x07\x08", crc, len(data), len(data))
        entry = (b"PK\x01\x02", 0, 0, flags, 0, 0, 0, crc, len(data), len(data), len(raw), 0, 0, 0, 0, 0, at)
        directory += struct.pack("<4s6H3L5H2L", *entry) + raw
    start, count, length = len(out), len(members), len(directory)
    out += directory
    wide = len(out)
    out += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 30, 45, 0, 0, count, count, length, start)
    out += struct.pack("<4sLQL", b"PK\x06\x07", 0, wide, 1)
    return bytes(out + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, length, start, 0))


class _Stream(io.BytesIO):
    """What can only be written to in order."""

    def seek(self, *_):
        raise OSError


def zipped(members: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED, streamed: bool = False) -> bytes:
    """A zip file as Python makes it."""
    buffer = _Stream() if streamed else io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return buffer.getvalue()


class File:
    """Bytes that count how often they were read, and how many."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0
        self.bytes = 0

    def __call__(self, offset: int, size: int) -> bytes:
        assert offset >= 0
        assert 0 <= size <= len(self.data) - offset
        self.reads += 1
        self.bytes += size
        return self.data[offset : offset + size]
