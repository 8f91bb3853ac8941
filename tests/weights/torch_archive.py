"""A file as `torch.save` writes it, made by hand: a zip of a pickle and of the storages that it names."""

import io
import struct
import zipfile
from collections.abc import Mapping

import numpy as np


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def whole(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def state_dict(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    """The pickle of a dictionary of float32 tensors, each with a storage of its own, named 0, 1, …"""
    items = b""
    for index, (name, shape) in enumerate(tensors.items()):
        count = int(np.prod(shape, dtype=np.int64))
        storage = (
            b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(index)) + text("cpu") + whole(count) + b"tQ"
        )
        strides = tuple(int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape)))
        arguments = (
            b"(" + storage + whole(0) + numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)Rt"
        )
        items += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
    return b"\x80\x02}(" + items + b"u."


def sample(tensors: Mapping[str, tuple[int, ...]] | None = None) -> bytes:
    """A small archive; its storages hold increasing numbers."""
    shapes = {"conv.weight": (4, 3), "conv.bias": (4,), "head.weight": (2, 5)} if tensors is None else tensors
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", state_dict(shapes))
        archive.writestr("archive/byteorder", "little")
        for index, shape in enumerate(shapes.values()):
            archive.writestr(f"archive/data/{index}", np.arange(np.prod(shape), dtype=np.float32).tobytes())
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()
