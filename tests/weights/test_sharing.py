"""What files of different formats, read and cut as a push does it, have in common."""

import io
from hashlib import sha256

import numpy as np
from safetensors.numpy import save

from registry.weights import contents, formats, segments
from tests.weights import onnx_file, torch_file
from tests.weights.gguf_file import ARRAY, TEXT, Entry, gguf, pair

KB = 1024
RANDOM = np.random.Generator(np.random.SFC64(1))
WEIGHTS = {
    "embed.weight": RANDOM.standard_normal((5000, 256), dtype=np.float32),
    "layers.0.norm.weight": RANDOM.standard_normal(256, dtype=np.float32),
    "layers.0.up.weight": RANDOM.standard_normal((1030, 256), dtype=np.float32),
    "layers.0.up.bias": RANDOM.standard_normal(1030, dtype=np.float32),
    "layers.1.up.weight": RANDOM.standard_normal((1030, 256), dtype=np.float32),
}
LARGE = sum(each.nbytes for each in WEIGHTS.values() if each.nbytes >= segments.OWN_SEGMENT_BYTES)


def stored(name: str, data: bytes) -> dict[str, int]:
    """The size of each segment by its digest."""
    header = formats.header_of(name, len(data), lambda offset, size: data[offset : offset + size])
    spans = contents.cut(len(data), io.BytesIO(data).readinto) if header is None else segments.cut(len(data), header)
    assert sum(span.size for span in spans) == len(data)
    return {sha256(data[each.offset : each.offset + each.size]).hexdigest(): each.size for each in spans}


def shared(one: dict[str, int], other: dict[str, int]) -> int:
    return sum(size for digest, size in one.items() if digest in other)


def as_gguf(weights: dict[str, np.ndarray], *, note: str = "") -> bytes:
    entries, body = [], b""
    for name, each in weights.items():
        body += bytes(-len(body) % 32)
        entries.append(Entry(name, each.shape[::-1], 0, len(body)))
        body += each.tobytes()
    tokens = pair("tokenizer.ggml.tokens", ARRAY, (TEXT, [f"token {i}" for i in range(100)]))
    return gguf(entries, [pair("general.name", TEXT, note), tokens], body=body)


def as_onnx(weights: dict[str, np.ndarray], *, nodes: int = 3) -> bytes:
    made = [onnx_file.tensor(name, each.shape, raw=each.tobytes()) for name, each in weights.items()]
    return onnx_file.model(*made, nodes=nodes)


def test_gguf_files_that_differ_in_metadata_share_all_weights() -> None:
    one, other = (stored("m.gguf", as_gguf(WEIGHTS, note=note)) for note in ("", "tuned by " + "me " * 99))
    assert shared(one, other) == sum(each.nbytes for each in WEIGHTS.values()) + 8  # 8 are padding, before a tensor


def test_gguf_files_in_another_order_share_the_large_tensors() -> None:
    backwards = dict(reversed(WEIGHTS.items()))
    assert shared(stored("m.gguf", as_gguf(WEIGHTS)), stored("m.gguf", as_gguf(backwards))) >= LARGE


def test_onnx_models_with_another_graph_share_all_but_the_small_tensors() -> None:
    one, other = (stored("m.onnx", as_onnx(WEIGHTS, nodes=nodes)) for nodes in (3, 40))
    assert shared(one, other) >= LARGE


def as_torch(weights: dict[str, np.ndarray], *, note: str = "") -> bytes:
    tensors = {name: torch_file.tensor(str(key), *each.shape) for key, (name, each) in enumerate(weights.items())}
    storages = {str(key): each.tobytes() for key, each in enumerate(weights.values())}
    return torch_file.saved({"note": note, "model": torch_file.ordered(tensors)}, storages)


def test_torch_files_share_the_large_tensors_whatever_else_they_say_and_in_which_order() -> None:
    first = stored("m.pt", as_torch(WEIGHTS))
    assert shared(stored("m.pt", as_torch(WEIGHTS, note="tuned " * 500)), first) >= LARGE
    assert shared(stored("m.pt", as_torch(dict(reversed(WEIGHTS.items())))), first) >= LARGE


def test_one_model_in_several_formats_is_stored_once() -> None:
    first = stored("m.safetensors", save(WEIGHTS))
    assert shared(stored("m.pt", as_torch(WEIGHTS)), first) >= LARGE
    assert shared(stored("m.gguf", as_gguf(WEIGHTS)), first) >= LARGE
    assert shared(stored("m.onnx", as_onnx(WEIGHTS)), first) >= LARGE


def test_an_archive_that_is_not_read_shares_what_lies_behind_another_beginning() -> None:
    weights = save(WEIGHTS) * 3
    one, other = (stored("m.tar", b"config" * count + weights) for count in (100, 777))
    assert shared(one, other) > len(weights) / 2
