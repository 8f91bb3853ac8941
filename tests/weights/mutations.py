"""Damage to files: what disks, networks and people with bad intentions do to them."""

import json
from collections.abc import Callable
from random import Random

from registry.domain.errors import WeightsError
from registry.weights import formats, sharded
from tests.weights import gguf_file, onnx_file, torch_archive

LIES = (
    0,
    1,
    2,
    7,
    8,
    32,
    127,
    128,
    255,
    2**15,
    2**16,
    10**5,
    2**24 + 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63,
    2**64 - 1,
)
"""What lengths, counts and offsets are said to be."""


def mutated(data: bytes, random: Random) -> bytes:
    """The file with one to three things done to it, mostly near its start or its end, where formats keep lengths."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        random.choice(_DAMAGES)(content, random)
    return bytes(content)


def _somewhere(content: bytearray, random: Random) -> int:
    if not content:
        return 0
    size = len(content)
    near = random.choice((16, 64, 400, size, size))
    at = random.randrange(min(near, size))
    return at if random.random() < 0.8 else size - 1 - at


def _flip(content: bytearray, random: Random) -> None:
    if content:
        content[_somewhere(content, random)] ^= 1 << random.randrange(8)


def _byte(content: bytearray, random: Random) -> None:
    if content:
        content[_somewhere(content, random)] = random.choice(
            (0, 1, 9, 34, 44, 123, 127, 128, 255, random.randrange(256))
        )


def _lie(content: bytearray, random: Random) -> None:
    width = random.choice((1, 2, 4, 8))
    at = _somewhere(content, random)
    content[at : at + width] = (random.choice(LIES) % (1 << 8 * width)).to_bytes(width, "little")


def _long_varint(content: bytearray, random: Random) -> None:
    at = _somewhere(content, random)
    content[at : at + random.choice((0, 1))] = b"\xff" * random.choice((1, 4, 8, 9, 10)) + b"\x01"


def _truncate(content: bytearray, random: Random) -> None:
    del content[_somewhere(content, random) :]


def _remove(content: bytearray, random: Random) -> None:
    at = _somewhere(content, random)
    del content[at : at + random.choice((1, 2, 4, 8, 33))]


def _repeat(content: bytearray, random: Random) -> None:
    at = _somewhere(content, random)
    content[at:at] = content[at : at + random.choice((1, 8, 60, 500))] * random.choice((1, 2, 50))


def _splice(content: bytearray, random: Random) -> None:
    source, target, size = _somewhere(content, random), _somewhere(content, random), random.choice((1, 4, 8, 24, 200))
    content[target : target + size] = content[source : source + size]


def _blank(content: bytearray, random: Random) -> None:
    at, size = _somewhere(content, random), random.choice((4, 16, 100))
    content[at : at + size] = random.choice((b"\0", b"\xff", b" ")) * size


def _append(content: bytearray, random: Random) -> None:
    content += random.randbytes(random.choice((1, 8, 1000)))


def _bracket(content: bytearray, random: Random) -> None:
    at = _somewhere(content, random)
    content[at:at] = random.choice((b"[", b"{", b'"', b"\x0a\xff", b"]]", b"(", b"\x80\x04")) * random.choice(
        (1, 100, 20_000)
    )


_DAMAGES = (_flip, _byte, _lie, _lie, _long_varint, _truncate, _remove, _repeat, _splice, _blank, _append, _bracket)


SHARDED = json.dumps(
    {
        "metadata": {"total_size": 24},
        "weight_map": {f"layer.{i}.weight": f"model-{i % 2}.safetensors" for i in range(6)},
    }
).encode()


def _safetensors() -> bytes:
    entries = {
        "__metadata__": {"format": "pt", "epoch": "3"},
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "a.bias": {"dtype": "BF16", "shape": [3], "data_offsets": [24, 30]},
        "b": {"dtype": "U8", "shape": [], "data_offsets": [30, 31]},
    }
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(range(31))


VALID = {
    "model.safetensors": _safetensors(),
    "model.safetensors.index.json": SHARDED,
    "model.gguf": gguf_file.sample(),
    "model.onnx": onnx_file.sample(elsewhere=True),
    "model.pt": torch_archive.sample(),
}


def here(path: str, data: bytes) -> object:
    """What the file is, or the class and the message of the refusal, found without a worker."""
    read: Callable[[int, int], bytes] = lambda offset, size: data[offset : offset + size]
    try:
        if sharded.is_index(path):
            index = sharded.parse_index(read(0, len(data)))
            return {"weight_map": index.weight_map, "total_size": index.total_size}
        return formats.facts(path, len(data), read)
    except WeightsError as error:
        return type(error), str(error)
