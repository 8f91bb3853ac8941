"""What another version of a model adds to what is stored: our segments beside whole files, fixed cuts and small chunks.

A Llama-shaped model in bfloat16, written by the safetensors library, and what becomes of models: tuned, merged, grown,
sharded anew. Each is cut as a push would cut it and hashed; bytes are new if the first version has no segment like
them. Nothing here depends on the machine.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyfastcdc import FastCDC
from safetensors import TensorSpec, serialize_file

from benchmarks.demo import rounded, widened
from benchmarks.report import Report, Target
from registry.client._sources import sources
from registry.weights import safetensors
from registry.weights.segments import OWN_SEGMENT_BYTES, SEGMENT_BYTES

Model = dict[str, np.ndarray[Any, np.dtype[np.uint16]]]
"""Tensors by name, in the order of the model; bfloat16 in two bytes."""
Spans = list[tuple[int, int]]
Cut = Callable[[Path], Spans]

HEAD, EMBEDDING = "score.weight", "model.embed_tokens.weight"
_FIXED = 4 << 20
_CHUNK = 64 << 10
_ROWS = 64
_FILE = "model.safetensors"


class Shape(NamedTuple):
    """What makes a model large."""

    layers: int
    width: int
    inner: int
    vocabulary: int
    head: int


FULL = Shape(16, 1024, 2816, 32_000, 4096)
SMALL = Shape(8, 512, 1408, 10_000, 1024)
# Name, most new bytes by size of the member, at full size.
LIMITS = {
    "head only": 0.025,
    "LoRA merged into q, k, v, o": 0.30,
    "sharded anew": 0.002,
    "other header": 0.002,
    "vocabulary + 64 rows": 0.015,
}


def measure(folder: Path, *, full: bool) -> Report:
    """Cut and hash every member of the family, one at a time."""
    shape = FULL if full else SMALL
    base = original(shape)
    write(base, folder / "base" / _FILE)
    size = _size(folder / "base")
    known = {name: stored(folder / "base", cut) for name, cut in SIDES.items()}
    report = Report(
        f"new bytes by size of the member, {size / 1e6:.0f} MB of bfloat16, after the first version",
        ("", *SIDES, "of them in packs"),
    )
    report.rows.append(("records of the first", *(str(len(each)) for each in known.values()), ""))
    for name, make in MEMBERS.items():
        target = folder / "member"
        make(base, target)
        found = {side: stored(target, cut) for side, cut in SIDES.items()}
        new = {
            side: sum(length for digest, length in each.items() if digest not in known[side]) / _size(target)
            for side, each in found.items()
        }
        fresh = set(found["ours"]) - set(known["ours"])
        report.rows.append((name, *(f"{share:.4f}" for share in new.values()), f"{_packed(target, fresh):.5f}"))
        if name in LIMITS:
            most = limit(name, size, shape)
            report.targets.append(Target(f"{name}, % of the member", 100 * new["ours"], 100 * most, at_least=False))
        shutil.rmtree(target)
    small = sum(each.nbytes for each in base.values() if each.nbytes < OWN_SEGMENT_BYTES)
    report.notes.append(f"{small / size:.5f} of the first version lies in packs of small tensors")
    return report


def limit(name: str, size: int, shape: Shape) -> float:
    """What is promised at full size; a small model pays for the same last segment of each tensor that grows."""
    if shape == FULL or name != "vocabulary + 64 rows":
        return LIMITS[name]
    return 2 * (SEGMENT_BYTES + _ROWS * shape.width * 2) / size


def stored(folder: Path, cut: Cut) -> dict[str, int]:
    """Every segment of every file below `folder`: its size by its digest."""
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            for _, size in cut(path):
                found[sha256(file.read(size)).hexdigest()] = size
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _packed(folder: Path, fresh: set[str]) -> float:
    """How much of the member is new and lies in packs, by its size."""
    found = 0
    for path in folder.glob("*.safetensors"):
        data = path.read_bytes()
        header = safetensors.parse(data[: safetensors.header_size(data[: safetensors.PREFIX], len(data))], len(data))
        large = [(each.offset, each.offset + each.size) for each in header.tensors if each.size >= OWN_SEGMENT_BYTES]
        for offset, length in ours(path):
            is_pack = offset >= header.size and not any(start <= offset < end for start, end in large)
            if is_pack and sha256(data[offset : offset + length]).hexdigest() in fresh:
                found += length
    return found / _size(folder)


# The sides


def ours(path: Path) -> Spans:
    """As a push cuts it."""
    # With its neighbours, since shards are read together.
    return next(list(source.spans) for source in sources([path.parent]) if source.path == path)


def _whole(path: Path) -> Spans:
    return [(0, path.stat().st_size)]


def _fixed(path: Path) -> Spans:
    edges = [*range(0, path.stat().st_size, _FIXED), path.stat().st_size]
    return [(start, end - start) for start, end in pairwise(edges)]


def _chunks(path: Path) -> Spans:
    return [(chunk.offset, chunk.length) for chunk in FastCDC(_CHUNK).cut_file(path)]


SIDES: dict[str, Cut] = {"ours": ours, "whole files": _whole, "fixed 4 MiB": _fixed, "64 KiB by content": _chunks}


# The family


def original(shape: Shape) -> Model:
    """The first version."""
    random = np.random.Generator(np.random.SFC64(1))
    model = {}
    for name, dimensions in tensors(shape):
        spread = np.float32(dimensions[-1] ** -0.5)
        model[name] = rounded(random.standard_normal(dimensions, dtype=np.float32) * spread)
    return model


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in the order of the model."""
    square, wide = (shape.width, shape.width), (shape.inner, shape.width)
    yield EMBEDDING, (shape.vocabulary, shape.width)
    for layer in range(shape.layers):
        before = f"model.layers.{layer}"
        for projection in "qkvo":
            yield f"{before}.self_attn.{projection}_proj.weight", square
        yield f"{before}.mlp.gate_proj.weight", wide
        yield f"{before}.mlp.up_proj.weight", wide
        yield f"{before}.mlp.down_proj.weight", wide[::-1]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{before}.{norm}.weight", (shape.width,)
    yield "model.norm.weight", (shape.width,)
    yield HEAD, (shape.head, shape.width)


def write(model: Model, path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """As the library writes it: in the order of names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=each.shape, data_ptr=each.ctypes.data, data_len=each.nbytes)
        for name, each in model.items()
    }
    serialize_file(specs, path, metadata or {"format": "pt"})


def _tuned(step: float, *names: str) -> Callable[[Model, Path], None]:
    """Every tensor, or those with one of `names` in theirs, moved by a step of that size relative to it."""

    def make(base: Model, folder: Path) -> None:
        random = np.random.Generator(np.random.SFC64(2))
        meant = {name for name in base if not names or any(each in name for each in names)}
        tuned = {name: _moved(each, step, random) if name in meant else each for name, each in base.items()}
        write(tuned, folder / _FILE)

    return make


def _moved(tensor: np.ndarray[Any, Any], step: float, random: np.random.Generator) -> np.ndarray[Any, Any]:
    values = widened(tensor)
    noise = random.standard_normal(values.shape, dtype=np.float32)
    return rounded(values + noise * np.float32(step * float(np.sqrt((values**2).mean()))))


def _sharded(base: Model, folder: Path) -> None:
    names, shards = list(base), 5
    index: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        here = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        write({name: base[name] for name in here}, folder / file)
        index |= dict.fromkeys(here, file)
    total = {"total_size": sum(each.nbytes for each in base.values())}
    text = json.dumps({"metadata": total, "weight_map": index}, indent=2)
    (folder / f"{_FILE}.index.json").write_text(text, encoding="utf-8")


def _other_header(base: Model, folder: Path) -> None:
    write(base, folder / _FILE, metadata={"format": "pt", "note": "trained " * 100})


def _other_order(base: Model, folder: Path) -> None:
    """In the order of the model, which the library never writes but other programs do."""
    header: dict[str, Any] = {}
    position = 0
    for name, each in base.items():
        offsets = [position, position + each.nbytes]
        header[name] = {"dtype": "BF16", "shape": list(each.shape), "data_offsets": offsets}
        position += each.nbytes
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / _FILE).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for each in base.values():
            file.write(each.tobytes())


def _grown(base: Model, folder: Path) -> None:
    random = np.random.Generator(np.random.SFC64(3))

    def more(tensor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows = random.standard_normal((_ROWS, tensor.shape[1]), dtype=np.float32)
        return np.concatenate([tensor, rounded(rows * np.float32(0.02))])

    write({name: more(each) if name in (EMBEDDING, HEAD) else each for name, each in base.items()}, folder / _FILE)


MEMBERS: dict[str, Callable[[Model, Path], None]] = {
    "tuned by 1e-3": _tuned(1e-3),
    "tuned by 1e-2": _tuned(1e-2),
    "LoRA merged into q, k, v, o": _tuned(1e-2, ".q_proj", ".k_proj", ".v_proj", ".o_proj"),
    "head only": _tuned(1e-2, HEAD),
    "sharded anew": _sharded,
    "other header": _other_header,
    "other order": _other_order,
    "vocabulary + 64 rows": _grown,
}
