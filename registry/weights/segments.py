"""Where a file is cut into segments, the unit that is stored, shared and moved.

    safetensors   │ header │ big tensor, ≤ 4 MiB a piece │ small tensors packed, ≤ 1 MiB │ big tensor │ …
    other files   │ 4 MiB │ 4 MiB │ … │ rest │

The same tensor gives the same segments wherever it lies: a large one because it is cut off from its neighbours, small
ones because a pack ends where names and sizes say, not where the pack began. So versions share what they have in
common, whatever their headers, order or shards. Measured: tensor-aligned segments share as much as content-defined
chunks of 64 KiB, with a twenty-fifth of the records.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from registry.weights.tensors import Header, Tensor

SEGMENT_BYTES = 4 * 2**20
"""Where large tensors, headers and files without tensors are cut. Smaller shares more, larger needs fewer requests."""
OWN_SEGMENT_BYTES = 256 * 2**10
"""A tensor of at least this size is never packed with others, so that its order in the file does not matter."""
PACK_BYTES = 2**20
"""The most that a pack of small tensors holds."""
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


def cut(size: int, header: Header | None) -> list[Span]:
    """Contiguous spans that cover a file of `size` bytes exactly; none for an empty file.

    `header` is what the file's own header says, or None for a file without tensors. Raises ValueError if the tensors
    do not cover the rest of the file: such a header was not read from this file.
    """
    if header is None:
        return list(_pieces(0, size))
    spans = list(_pieces(0, header.size))
    pack = start = header.size  # the open pack is [pack, start)
    for tensor in header.tensors:
        if tensor.offset != start:
            raise ValueError(f"tensor {tensor.name!r} does not start where the one before it ends")
        start += tensor.size
        if _ends_pack(tensor, tensor.offset - pack):
            spans.append(Span(pack, tensor.offset - pack))
            pack = tensor.offset
        if tensor.size >= OWN_SEGMENT_BYTES:
            spans.extend(_pieces(tensor.offset, tensor.size))
            pack = start
    if start != size:
        raise ValueError(f"the tensors end at byte {start} of {size}")
    if pack < start:
        spans.append(Span(pack, start - pack))
    return spans


def _ends_pack(tensor: Tensor, held: int) -> bool:
    """True if a pack of `held` bytes ends before `tensor`.

    By name, one byte in PACK_MEAN_BYTES ends a pack: two files that differ near their start cut at the same names
    again soon after.
    """
    if not held or not tensor.size:
        return False
    if tensor.size >= OWN_SEGMENT_BYTES or held + tensor.size > PACK_BYTES:
        return True
    if held < PACK_MIN_BYTES:
        return False
    drawn = int.from_bytes(sha256(tensor.name.encode()).digest()[:4], "big")
    return drawn * PACK_MEAN_BYTES < tensor.size << 32


def _pieces(offset: int, size: int) -> Iterator[Span]:
    end = offset + size
    for start in range(offset, end, SEGMENT_BYTES):
        yield Span(start, min(SEGMENT_BYTES, end - start))
