"""ONNX models made by hand, so that a test can break any byte of one."""

import struct
from collections.abc import Mapping, Sequence

F32, U8, I64, STRING, F16, F64, BF16, I4 = 1, 2, 7, 8, 10, 11, 16, 22


def varint(value: int) -> bytes:
    value %= 1 << 64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, data: bytes | str) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def entry(key: str, value: str) -> bytes:
    return block(1, key) + block(2, value)


def tensor(
    name: str | bytes,
    shape: Sequence[int],
    kind: int = F32,
    *,
    raw: bytes | None = None,
    external: Mapping[str, str] | None = None,
    more: bytes = b"",
) -> bytes:
    """A TensorProto, its fields in the order in which protobuf writes them."""
    data = b"".join(number(1, size) for size in shape) + number(2, kind) + more + block(8, name)
    if raw is not None:
        data += block(9, raw)
    if external is not None:
        data += b"".join(block(13, entry(key, text)) for key, text in external.items()) + number(14, 1)
    return data


def value(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(block(1, number(1, each) if isinstance(each, int) else block(2, each)) for each in shape)
    return block(1, name) + block(2, block(1, number(1, kind) + block(2, dims)))


def model(*tensors: bytes, graph: bytes = b"", more: bytes = b"", nodes: int = 3) -> bytes:
    """A ModelProto around initializers."""
    body = b"".join(block(1, block(1, "x") + block(2, f"y{i}") + block(4, "Relu")) for i in range(nodes))
    body += block(2, "main") + b"".join(block(5, each) for each in tensors)
    body += block(11, value("x", F32, [1, "n"])) + block(12, value("y", F16, [])) + graph
    head = number(1, 9) + block(2, "exporter") + block(3, "2.0")
    return head + block(7, body) + block(8, number(2, 17)) + block(14, entry("stride", "32")) + more


def sample(*, elsewhere: bool = False) -> bytes:
    """A small model with arrays of several kinds; with one in another file if asked."""
    tensors = [
        tensor("conv.weight", (2, 3), raw=struct.pack("<6f", *range(6))),
        tensor("conv.bias", (4,), F16, raw=bytes(8)),
        tensor("shape", (2,), I64, more=block(7, varint(1) + varint(300))),
        tensor("scale", (3,), more=block(4, struct.pack("<3f", 1, 2, 3))),
        tensor("packed", (3,), I4, raw=b"\x21\x03"),
    ]
    if elsewhere:
        tensors.append(tensor("big", (8,), external={"location": "model.data", "offset": "64", "length": "32"}))
    return model(*tensors)
