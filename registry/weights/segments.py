"""Where a file is cut into segments, the unit that is stored, shared and moved.

    a format that is read   │ header │ big part, ≤ 4 MiB a piece │ small parts packed, ≤ 1 MiB │ big part │ … │ rest │

A part is a tensor, or what the format says is better to cut at. The same part gives the same segments wherever it lies:
a large one because it is cut off from its neighbours, small ones because a pack ends where names and sizes say, not
where the pack began. So versions share what they have in common, whatever their headers, order or shards. ADR 0013 has
the figures. Files of formats that are not read are cut by `registry.weights.contents`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from registry.weights.tensors import Header, Part, Tensor

SEGMENT_BYTES = 4 * 2**20
"""Where large parts and headers are cut. Smaller shares more, larger needs fewer requests."""
OWN_SEGMENT_BYTES = 256 * 2**10
"""A part of at least this size is never packed with others, so that its order in the file does not matter."""
PACK_BYTES = 2**20
"""The most that a pack of small parts holds."""
PACK_MIN_BYTES = 128 * 2**10
"""A pack ends by name only once it holds this much: fewer objects, and still quick to fall into step again."""
PACK_MEAN_BYTES = 256 * 2**10
"""How far apart, in bytes, the names lie at which a pack ends."""
MAX_SEGMENT_BYTES = 64 * 2**20
"""The largest segment that a server takes, whoever cut it."""


@dataclass(frozen=True, slots=True)
class Span:
    """`size` bytes at `offset` of a file."""

    offset: int
    size: int


def cut(size: int, header: Header) -> list[Span]:
    """Contiguous spans that cover a file of `size` bytes exactly; none for an empty file.

    `header` is what the file's own header says. Bytes between its parts (padding, the small headers of an archive) go
    with the part behind them if it is packed, else with the pack before; 256 KiB of them or more, and all that follows
    the last part, are cut off. Raises ValueError if parts overlap or leave the file: no format reader says so of the
    file that it read.
    """
    named = header.tensors if header.parts is None else header.parts
    parts: list[Tensor | Part] = [each for each in named if each.size]
    # A format may name parts of its header too.
    start = min(header.size, parts[0].offset) if parts else header.size
    spans = list(_pieces(0, start))
    pack = end = start  # the open pack is [pack, end)
    for part in parts:
        between = part.offset - end
        if between < 0:
            raise ValueError(f"{part.name!r} starts before the end of what lies before it")
        if between >= OWN_SEGMENT_BYTES:
            spans += _unless_empty(pack, end)
            spans += _pieces(end, between)
            pack = end = part.offset
        elif _ends_pack(part, end - pack, between):
            spans += _unless_empty(pack, end)
            pack = end
        end = part.offset + part.size
        if part.size >= OWN_SEGMENT_BYTES:
            spans += _unless_empty(pack, part.offset)
            spans += _pieces(part.offset, part.size)
            pack = end
    if end > size:
        raise ValueError(f"the parts end at byte {end} of {size}")
    spans += _unless_empty(pack, end)
    spans += _pieces(end, size - end)
    return spans


def _ends_pack(part: Tensor | Part, held: int, between: int) -> bool:
    """True if a pack of `held` bytes ends before `part` and the bytes between the two.

    By name, one byte in PACK_MEAN_BYTES ends a pack: two files that differ near their start cut at the same names
    again soon after.
    """
    if not held:
        return False
    if part.size >= OWN_SEGMENT_BYTES:
        return held + between > PACK_BYTES
    if held + between + part.size > PACK_BYTES:
        return True
    if held < PACK_MIN_BYTES:
        return False
    drawn = int.from_bytes(sha256(part.name.encode()).digest()[:4], "big")
    return drawn * PACK_MEAN_BYTES < part.size << 32


def _unless_empty(start: int, end: int) -> list[Span]:
    return [Span(start, end - start)] if start < end else []


def _pieces(offset: int, size: int) -> Iterator[Span]:
    end = offset + size
    for start in range(offset, end, SEGMENT_BYTES):
        yield Span(start, min(SEGMENT_BYTES, end - start))
