"""GGUF files made by hand, so that a test can break any byte of one."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64 = range(13)
FORMS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def text(data: str | bytes) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    """A value without its type; an array's content is (type, items)."""
    if kind == TEXT:
        return text(content)
    if kind == ARRAY:
        inner, items = content
        return struct.pack("<IQ", inner, len(items)) + b"".join(value(inner, item) for item in items)
    return struct.pack("<" + FORMS[kind], content)


def pair(key: str | bytes, kind: int, content: Any) -> bytes:
    return text(key) + struct.pack("<I", kind) + value(kind, content)


@dataclass(frozen=True)
class Entry:
    """A tensor as the header lists it: dimensions in the file's order, the offset from the first tensor's place."""

    name: str | bytes
    dims: tuple[int, ...]
    kind: int
    offset: int

    @property
    def packed(self) -> bytes:
        rank = len(self.dims)
        return text(self.name) + struct.pack(f"<I{rank}QIQ", rank, *self.dims, self.kind, self.offset)


def gguf(
    entries: Sequence[Entry] = (),
    pairs: Sequence[bytes] = (),
    *,
    body: bytes = b"",
    version: int = 3,
    alignment: int = 32,
    counts: dict[str, int] | None = None,
) -> bytes:
    """A whole file. `counts` may lie about `tensors` and `keys`."""
    told = {"tensors": len(entries), "keys": len(pairs)} | (counts or {})
    head = b"GGUF" + struct.pack("<IQQ", version, told["tensors"], told["keys"])
    head += b"".join(pairs) + b"".join(entry.packed for entry in entries)
    return head + bytes(-len(head) % alignment) + body


def sample() -> bytes:
    """A small model with a tokenizer, quantized and plain tensors, as converters write them."""
    pairs = [
        pair("general.architecture", TEXT, "llama"),
        pair("general.alignment", U32, 32),
        pair("llama.block_count", U32, 2),
        pair("llama.rope.freq_base", F32, 10000.0),
        pair("tokenizer.ggml.tokens", ARRAY, (TEXT, [f"token{i}" for i in range(200)])),
        pair("tokenizer.ggml.scores", ARRAY, (F32, [0.5] * 200)),
        pair("deep", ARRAY, (ARRAY, [(U8, [1, 2]), (TEXT, ["a", ""])])),
    ]
    entries, offset = [], 0
    for name, dims, kind, size in [
        ("token_embd.weight", (256, 4), 12, 4 * 144),
        ("blk.0.attn_q.weight", (64, 2), 8, 2 * 2 * 34),
        ("blk.0.attn_norm.weight", (5,), 0, 20),
        ("output.weight", (3, 2), 30, 12),
    ]:
        entries.append(Entry(name, dims, kind, offset))
        offset += size + -size % 32
    return gguf(entries, pairs, body=bytes(range(256)) * (offset // 256) + bytes(offset % 256))
