"""What other sizes of segments would cost and save: the table behind ADR 0013.

Models as their headers describe them: a detector of 5 MB in float16, an adapter of rank 16, MiniLM as it is published,
and a Llama-shaped one of 1 GB in bfloat16. A segment is known by the tensors in it, so no weights are read and nothing
depends on the machine: it is new if it holds a tensor that changed, or other neighbours than before.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path

from benchmarks import storage
from benchmarks.demo import real_weights
from benchmarks.report import Report
from registry.weights import safetensors, segments
from registry.weights.tensors import Header, Tensor

Sizes = dict[str, int]
"""Bytes of tensors by name, in the order of the file."""

_KB, _MB = 1 << 10, 1 << 20
_HEADER = 4 * _KB
_LLAMA = storage.Shape(20, 1536, 4096, 32_000, 4096)
# Segment, own segment, pack; the rest of a pack's rules keep their proportion to it.
CHOICES = (
    (1 * _MB, 256 * _KB, 1 * _MB),
    (2 * _MB, 256 * _KB, 1 * _MB),
    (4 * _MB, 64 * _KB, 1 * _MB),
    (4 * _MB, 128 * _KB, 1 * _MB),
    (4 * _MB, 256 * _KB, 512 * _KB),
    (4 * _MB, 256 * _KB, 1 * _MB),
    (4 * _MB, 256 * _KB, 4 * _MB),
    (4 * _MB, 512 * _KB, 1 * _MB),
    (4 * _MB, 1 * _MB, 1 * _MB),
    (8 * _MB, 256 * _KB, 1 * _MB),
    (16 * _MB, 256 * _KB, 1 * _MB),
)


def measure(folder: Path, *, full: bool) -> Report:
    """Cut each model, and what is made of it, at every choice of sizes. Full and small are the same."""
    del folder, full
    models = {
        "detector 5 MB": _detector(),
        "adapter 83 MB": _adapter(),
        "MiniLM 91 MB": _minilm(),
        "Llama 1 GB": _llama(),
    }
    report = Report(
        "new bytes after the first version, % of the model, by where it is cut",
        ("", "segment KiB", "own KiB", "pack KiB", "records", *_changes(models["MiniLM 91 MB"])),
    )
    for name, sizes in models.items():
        for choice in CHOICES:
            with _cutting(*choice):
                first = _segments(sizes, {})
                shares = [f"{_new(first, *change):.3f}" for change in _changes(sizes).values()]
            report.rows.append((name, *(f"{each >> 10}" for each in choice), str(len(first)), *shares))
    return report


def _changes(sizes: Sizes) -> dict[str, tuple[Sizes, dict[str, int]]]:
    """What becomes of a model: its tensors, and which of them have other bytes."""
    names = list(sizes)
    last = names[-1]
    largest = max(names, key=lambda name: sizes[name])
    norms = [name for name in names if sizes[name] < 16 * _KB]
    return {
        "last tensor": (sizes, {last: 1}),
        "one in four": (sizes, dict.fromkeys(names[::4], 1)),
        "small ones": (sizes, dict.fromkeys(norms, 1)),
        "largest grown": (sizes | {largest: sizes[largest] + 64 * _KB}, {}),
        "one more": ({"added.bias": 2048} | sizes, {}),
        "reversed": ({name: sizes[name] for name in reversed(names)}, {}),
    }


Held = tuple[tuple[str, int, int, int], ...]
"""What a segment holds: of each tensor its name, from where, to where, and which bytes."""


def _segments(sizes: Sizes, changed: Mapping[str, int]) -> dict[Held, int]:
    starts = accumulate(sizes.values(), initial=_HEADER)
    tensors = tuple(Tensor(name, "U8", (s,), at, s) for (name, s), at in zip(sizes.items(), starts, strict=False))
    spans = segments.cut(_HEADER + sum(sizes.values()), Header(tensors, {}, _HEADER))
    found: dict[Held, int] = {}
    here = 0
    for span in spans[1:]:
        end = span.offset + span.size
        while tensors[here].offset + tensors[here].size <= span.offset:
            here += 1
        held = []
        for tensor in tensors[here:]:
            if tensor.offset >= end:
                break
            begin, stop = max(span.offset, tensor.offset), min(end, tensor.offset + tensor.size)
            if begin < stop:
                part = (begin - tensor.offset, stop - tensor.offset)
                held.append((tensor.name, *part, changed.get(tensor.name, 0)))
        found[tuple(held)] = span.size
    return found


def _new(first: Mapping[Held, int], sizes: Sizes, changed: Mapping[str, int]) -> float:
    fresh = sum(size for held, size in _segments(sizes, changed).items() if held not in first)
    return 100 * fresh / sum(sizes.values())


@contextmanager
def _cutting(segment: int, own: int, pack: int) -> Iterator[None]:
    """Other constants for as long as the block lasts."""
    others = {
        "SEGMENT_BYTES": segment,
        "OWN_SEGMENT_BYTES": own,
        "PACK_BYTES": max(pack, own),
        "PACK_MIN_BYTES": pack // 8,
        "PACK_MEAN_BYTES": pack // 4,
    }
    before = {name: getattr(segments, name) for name in others}
    try:
        for name, value in others.items():
            setattr(segments, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(segments, name, value)


def _minilm() -> Sizes:
    data = real_weights().read_bytes()
    total = safetensors.header_size(data[: safetensors.PREFIX], len(data))
    return {each.name: each.size for each in safetensors.parse(data[:total], len(data)).tensors}


def _llama() -> Sizes:
    shapes = dict(storage.tensors(_LLAMA))
    return {name: 2 * prod(shapes[name]) for name in sorted(shapes)}


def _detector() -> Sizes:
    """Convolutions of growing width, each with the four vectors of its normalisation."""
    sizes: Sizes = {}
    widths = (3, 16, 32, 32, 64, 64, 64, 128, 128, 128, 160, 160, 96, 96, 128, 64, 64, 128, 64)
    for number, (into, out) in enumerate(pairwise(widths)):
        for branch in ("cv1", "cv2"):
            before = f"model.{number}.{branch}"
            sizes[f"{before}.conv.weight"] = 2 * into * out * 9
            for vector in ("bias", "running_mean", "running_var", "weight"):
                sizes[f"{before}.bn.{vector}"] = 2 * out
    return sizes


def _adapter() -> Sizes:
    """Two narrow matrices for each of a large model's."""
    projections = [f"self_attn.{each}_proj" for each in "qkvo"] + [
        f"mlp.{each}_proj" for each in ("gate", "up", "down")
    ]
    return {
        f"layers.{layer}.{projection}.lora_{side}.weight": 2
        * 16
        * (11_008 if "mlp" in projection and side == wide else 4096)
        for layer in range(32)
        for projection in projections
        for side in "AB"
        for wide in ("A" if "down" in projection else "B")
    }
