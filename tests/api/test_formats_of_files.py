"""What a server makes of the formats it reads: their tensors are listed, and what breaks a rule is not published."""

import pytest

from tests.support.pushing import push, weights
from tests.support.world import code
from tests.weights import gguf_file, onnx_file, torch_archive


def tensors(http, path: str, number: int = 1) -> list[tuple[str, str, list[int]]]:
    found = http.items(f"/models/yolo/versions/{number}/tensors?artifact={path}")
    return [(each["name"], each["dtype"], each["shape"]) for each in found]


def test_the_tensors_of_a_gguf_file_are_listed(http):
    [file] = push(http, "yolo", {"q4.gguf": gguf_file.sample()}, size=1000).version["artifacts"]
    assert (file["format"], file["tensor_count"]) == ("gguf", 4)
    assert tensors(http, "q4.gguf")[:2] == [
        ("token_embd.weight", "Q4_K", [4, 256]),
        ("blk.0.attn_q.weight", "Q8_0", [2, 64]),
    ]


def test_the_tensors_of_a_model_and_its_external_data_are_listed_where_they_lie(http):
    files = {"a/m.onnx": onnx_file.sample(elsewhere=True), "a/model.data": bytes(96), "b.bin": bytes(8)}
    artifacts = {each["path"]: each for each in push(http, "yolo", files).version["artifacts"]}
    assert {path: each["tensor_count"] for path, each in artifacts.items()} == {
        "a/m.onnx": 4,
        "a/model.data": 1,
        "b.bin": 0,
    }
    assert artifacts["a/model.data"]["format"] == "opaque"
    assert tensors(http, "a/model.data") == [("big", "F32", [8])]
    assert tensors(http, "a/m.onnx")[0] == ("conv.weight", "F32", [2, 3])


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"m.gguf": b"not one"}, "GGUF_MAGIC"),
        ({"m.gguf": gguf_file.sample()[:1000]}, "GGUF_TRUNCATED"),
        ({"m.onnx": b"not one"}, "ONNX_SYNTAX"),
        ({"m.onnx": onnx_file.sample(elsewhere=True)}, "ONNX_EXTERNAL_MISSING"),
        ({"m.onnx": onnx_file.sample(elsewhere=True), "sub/model.data": bytes(96)}, "ONNX_EXTERNAL_MISSING"),
        ({"m.onnx": onnx_file.sample(elsewhere=True), "model.data": bytes(95)}, "ONNX_EXTERNAL_RANGE"),
        ({"m.onnx": onnx_file.model(onnx_file.tensor("w", (1,), external={"location": "../w"}))}, "ONNX_EXTERNAL_PATH"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_not_published(http, files, expected):
    assert code(push(http, "yolo", files).answer) == (422, expected)
    assert push(http, "yolo", {"model.safetensors": weights()}).version["number"] == 1


def test_a_file_of_torch_is_a_pickle_still(http):
    [file] = push(http, "yolo", {"best.pt": torch_archive.sample()}).version["artifacts"]
    assert (file["format"], file["pickle"]) == ("pytorch", True)
