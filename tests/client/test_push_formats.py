"""Files of other formats than safetensors are cut by their tensors, and refused here as a server would refuse them."""

from pathlib import Path

import numpy as np
import pytest

import registry
from registry.client._sources import sources
from registry.weights.segments import OWN_SEGMENT_BYTES
from tests.weights import gguf_file, onnx_file

LARGE = OWN_SEGMENT_BYTES // 4
BODY = np.random.default_rng(5).standard_normal(2 * LARGE, dtype=np.float32).tobytes()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def gguf(name: str) -> bytes:
    entries = [gguf_file.Entry("a", (LARGE,), 0, 0), gguf_file.Entry("b", (LARGE,), 0, 4 * LARGE)]
    return gguf_file.gguf(entries, [gguf_file.pair("general.name", gguf_file.TEXT, name)], body=BODY)


def onnx(**offsets: int) -> bytes:
    places = {name: {"location": "big.data", "offset": str(offset)} for name, offset in offsets.items()}
    return onnx_file.model(*[onnx_file.tensor(name, (LARGE,), external=place) for name, place in places.items()])


def test_a_gguf_file_is_cut_at_its_tensors(tmp_path):
    folder = write(tmp_path, {"m.gguf": gguf("one")})
    [source] = sources([folder])
    assert source.spans[-2:] == ((source.size - 8 * LARGE, 4 * LARGE), (source.size - 4 * LARGE, 4 * LARGE))


def test_external_data_is_cut_at_the_tensors_of_its_models(tmp_path):
    folder = write(tmp_path, {"m/a.onnx": onnx(a=0), "m/b.onnx": onnx(b=4 * LARGE), "m/big.data": BODY})
    cut = {source.artifact: source.spans for source in sources([folder])}
    assert cut["m/big.data"] == ((0, 4 * LARGE), (4 * LARGE, 4 * LARGE))


def test_another_header_of_a_gguf_file_moves_the_header_alone(client, name, tmp_path):
    client.push(name, write(tmp_path / "one", {"m.gguf": gguf("one")}))
    again = client.push(name, write(tmp_path / "two", {"m.gguf": gguf("another name that is longer")}))
    assert again.transfer.moved < 1000
    assert [artifact.tensor_count for artifact in again.artifacts] == [2]


def test_a_model_comes_back_with_its_external_data(client, name, tmp_path):
    files = {"a.onnx": onnx(a=0, b=4 * LARGE), "big.data": BODY}
    pushed = client.push(name, write(tmp_path / "in", files))
    assert {each.path: each.tensor_count for each in pushed.artifacts} == {"a.onnx": 0, "big.data": 2}
    client.pull(name, tmp_path / "out")
    assert {path: (tmp_path / "out" / path).read_bytes() for path in files} == files


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"m.gguf": b"GGUF"}, "GGUF_MAGIC"),
        ({"m.onnx": b"PK\3\4"}, "ONNX_SYNTAX"),
        ({"m.onnx": onnx(a=0)}, "ONNX_EXTERNAL_MISSING"),
        ({"m.onnx": onnx(a=0), "big.data": b"short"}, "ONNX_EXTERNAL_RANGE"),
    ],
)
def test_a_file_that_the_server_would_refuse_is_refused_here(tmp_path, files, expected):
    with pytest.raises(registry.RegistryError, match=r"m\.(gguf|onnx)") as caught:
        sources([write(tmp_path, files)])
    assert caught.value.code == expected
