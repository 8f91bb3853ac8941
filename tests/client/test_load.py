import json
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import registry
from registry.client import _download, _load
from registry.client._folder import Folder
from registry.client._http import Connections
from tests.client.conftest import arrays
from tests.weights.gguf_file import Entry, gguf


@pytest.fixture
def fetched(monkeypatch):
    """How many bytes of segments `load` fetched."""
    total: list[int] = []
    fetch_each = _download.fetch_each

    def counting(wanted, sign, **options):
        size = fetch_each(wanted, sign, **options)
        total.append(size)
        return size

    monkeypatch.setattr(_load, "fetch_each", counting)
    return total


def equal(found, expected) -> bool:
    return list(found) == sorted(expected) and all(np.array_equal(found[key], expected[key]) for key in expected)


def test_all_tensors_come_by_name(client, name, weights):
    client.push(name, weights(seed=3))
    assert equal(client.load(name), arrays(3))


def test_only_the_tensors_asked_for_are_fetched(client, name, weights, fetched):
    client.push(name, weights(seed=3))
    found = client.load(name, tensors=["head.*"])
    assert equal(found, {key: array for key, array in arrays(3).items() if key.startswith("head.")})
    assert sum(fetched) < 100_000


def test_a_pattern_may_be_given_as_text(client, name, weights):
    client.push(name, weights(seed=3))
    assert list(client.load(name, "norm.scale")) == ["norm.scale"]


def test_arrays_can_be_written_to_and_do_not_change_the_cache(client, name, weights):
    client.push(name, weights(seed=3))
    for _ in ("from the store", "from the cache"):
        found = client.load(name)
        found["body.weight"][:] = 0
        folder = client.pull(name)
    assert equal(client.load(name), arrays(3))
    assert (folder / "model.safetensors").read_bytes() == weights(seed=3).read_bytes()


def test_a_cached_digest_is_loaded_without_a_registry(client, name, weights, fetched):
    version = client.push(name, weights(seed=3))
    client.pull(name)
    lonely = registry.Client("http://127.0.0.1:9", "")
    lonely._cache = client._cache
    assert equal(lonely.load(f"{name}@{version.digest}"), arrays(3))
    assert fetched == []


def test_a_pulled_version_is_not_fetched_again(client, name, weights, fetched):
    client.push(name, weights(seed=3))
    client.pull(name)
    assert equal(client.load(f"{name}:1", ["body.*"]), {"body.weight": arrays(3)["body.weight"]})
    assert fetched == []


def test_shards_come_as_one(client, name, tmp_path):
    parts: list[dict[str, np.ndarray]] = [{"a": np.arange(5)}, {"b": np.ones((400, 400), np.float32)}]
    for number, part in enumerate(parts, start=1):
        save_file(part, tmp_path / f"model-0000{number}-of-00002.safetensors")
    (tmp_path / "notes.txt").write_text("not weights")
    client.push(name, tmp_path)
    assert equal(client.load(name), parts[0] | parts[1])
    assert equal(client.load(name, artifacts=["*00001*"]), parts[0])


def test_the_same_tensor_in_two_artifacts_is_refused_unless_one_is_chosen(client, name, tmp_path):
    save_file({"a": np.zeros(3)}, tmp_path / "best.safetensors")
    save_file({"a": np.ones(3)}, tmp_path / "last.safetensors")
    client.push(name, tmp_path)
    with pytest.raises(registry.ConflictError) as caught:
        client.load(name)
    assert caught.value.code == "TENSOR_TWICE"
    assert equal(client.load(name, artifacts=["last.*"]), {"a": np.ones(3)})


def test_a_pattern_that_fits_nothing_is_told(client, name, weights):
    client.push(name, weights(seed=3))
    with pytest.raises(registry.NotFoundError) as caught:
        client.load(name, tensors=["head.*", "model.0.*"])
    assert caught.value.code == "TENSOR_NOT_MATCHED"
    assert "'model.0.*'" in str(caught.value)


def test_a_version_without_safetensors_has_nothing_to_load(client, name, tmp_path):
    (tmp_path / "model.engine").write_bytes(b"engine")
    client.push(name, tmp_path)
    with pytest.raises(registry.InvalidError) as caught:
        client.load(name)
    assert caught.value.code == "NO_TENSORS"


def test_every_kind_of_tensor_comes_back(client, name, tmp_path):
    tensors = {
        "scalar": np.array(3.5),
        "nothing": np.empty((0, 4), np.float32),
        "flags": np.array([True, False]),
        "halves": np.arange(7, dtype=np.float16),
        "bytes": np.arange(300, dtype=np.uint8),
        "large": np.arange(3_000_000, dtype=np.int64),  # several segments
    }
    save_file(tensors, tmp_path / "m.safetensors")
    client.push(name, tmp_path)
    found = client.load(name)
    assert equal(found, tensors)
    assert {key: array.dtype for key, array in found.items()} == {key: array.dtype for key, array in tensors.items()}


def test_bfloat16_becomes_float32_exactly(client, name, tmp_path):
    values = np.array([1.0, -2.5, 3.140625], np.float32)
    header = b'{"w":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}}'
    header += b" " * (-len(header) % 8)
    bits = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bits)
    client.push(name, tmp_path)
    found = client.load(name)["w"]
    assert found.dtype == np.float32
    assert np.array_equal(found, values)


def test_a_long_layout_is_read_only_as_far_as_needed(client, name, tmp_path, monkeypatch):
    monkeypatch.setattr("registry.client._layout.PAGE", 1)
    save_file({f"t{number}": np.full(80_000, number, np.float32) for number in range(8)}, tmp_path / "m.safetensors")
    client.push(name, tmp_path)
    asked: list[str] = []
    get = client._api.get

    def asking(path, shape, **query):
        asked.append(path)
        return get(path, shape, **query)

    monkeypatch.setattr(client._api, "get", asking)
    assert np.array_equal(client.load(name, "t0")["t0"], np.zeros(80_000, np.float32))
    assert len([path for path in asked if path.endswith("segments")]) == 2


def test_an_unknown_framework_is_refused():
    with pytest.raises(registry.InvalidError):
        registry.Client("http://127.0.0.1:9", "").load("yolo:1", framework="jax")  # type: ignore[arg-type]


def test_torch_that_is_not_installed_is_told_before_anything_is_fetched(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(registry.LocalError) as caught:
        registry.Client("http://127.0.0.1:9", "").load("yolo:1", framework="torch")
    assert caught.value.code == "TORCH_MISSING"


def test_what_is_loaded_is_what_was_pushed_to_the_last_byte(client, name, weights):
    path = weights(seed=9)
    client.push(name, path)
    found = client.load(name)
    expected = arrays(9)
    assert all(sha256(found[key].tobytes()).digest() == sha256(expected[key].tobytes()).digest() for key in expected)


def bfloat16(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Write random bfloat16 tensors; gives them as float32."""
    random = np.random.default_rng(4)
    bits = {key: random.integers(0, 0x7F00, size=shape, dtype=np.uint16) for key, shape in shapes.items()}
    header, offset = {}, 0
    for key, array in bits.items():
        header[key] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in bits.values()))
    return {key: (array.astype(np.uint32) << 16).view(np.float32) for key, array in bits.items()}


@pytest.mark.parametrize("where", ["store", "cache", "mmap"])
def test_large_and_small_bfloat16_tensors_are_exact_wherever_they_come_from(client, name, tmp_path, where):
    expected = bfloat16(tmp_path / "m.safetensors", {"large": (2100, 2100), "small": (7, 3), "other": (501,)})
    client.push(name, tmp_path / "m.safetensors")
    if where == "cache":
        client.pull(name)
    assert equal(client.load(name, mmap=where == "mmap"), expected)


def store_requests(monkeypatch) -> list[str]:
    """What is asked of the store from now on."""
    asked: list[str] = []
    request = Connections.request

    def asking(self, method, url, headers, body=None):
        asked.append(method)
        return request(self, method, url, headers, body)

    monkeypatch.setattr(Connections, "request", asking)
    return asked


def test_one_tensor_costs_the_store_no_more_requests_than_it_has_segments(client, name, tmp_path, monkeypatch):
    layers = {f"layer.{index}": np.full((1500, 1000), index, np.float32) for index in range(9)}
    save_file(layers, tmp_path / "m.safetensors")
    client.push(name, tmp_path)
    asked = store_requests(monkeypatch)
    assert equal(client.load(name, "layer.4"), {"layer.4": layers["layer.4"]})
    assert len(asked) <= 2


def test_mapped_arrays_come_from_the_cache_and_their_files_never_change(client, name, weights):
    path = weights(seed=3)
    client.push(name, path)
    found = client.load(name, mmap=True)
    assert equal(found, arrays(3))
    found["body.weight"][:] = 0
    assert equal(client.load(name, mmap=True), arrays(3))
    assert (client.pull(name) / "model.safetensors").read_bytes() == path.read_bytes()


def test_mapping_brings_only_the_artifacts_with_tensors(client, name, weights, tmp_path):
    (tmp_path / "notes.txt").write_text("words")
    version = client.push(name, [weights(seed=3), tmp_path / "notes.txt"])
    client.load(name, "norm.scale", mmap=True)
    folder = tmp_path / "cache/versions" / name / version.digest.removeprefix("sha256:")
    assert [path.name for path in folder.iterdir() if path.name != ".registry"] == ["model.safetensors"]


def test_a_file_that_goes_while_it_is_about_to_be_read_is_fetched(client, name, weights, monkeypatch, fetched):
    client.push(name, weights(seed=3))
    folder = client.pull(name)
    holds = Folder.holds

    def holds_then_loses(self, artifact):
        found = holds(self, artifact)
        (folder / artifact.path).unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Folder, "holds", holds_then_loses)
    assert equal(client.load(name), arrays(3))
    assert sum(fetched) > 0


def test_other_formats_give_way_to_safetensors_unless_they_are_named(client, name, weights, tmp_path):
    f32, q8_0, blocks = 0, 8, bytes(range(34)) * 2
    entries = [Entry("other", (3, 2), f32, 0), Entry("blocks", (32, 2), q8_0, 32)]
    body = np.arange(6, dtype=np.float32).tobytes().ljust(32, b"\0") + blocks
    (tmp_path / "model.gguf").write_bytes(gguf(entries, body=body))
    client.push(name, [weights(seed=3), tmp_path / "model.gguf"])
    assert equal(client.load(name), arrays(3))
    other = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = client.load(name, artifacts=["*.gguf"])
    assert equal(found, {"other": other, "blocks": np.frombuffer(blocks, np.uint8)})
    assert equal(client.load(name, artifacts=["*.gguf"], mmap=True), found)


def test_a_registry_that_places_a_tensor_outside_its_file_is_not_followed(client, name, weights, monkeypatch):
    client.push(name, weights(seed=3))
    pages = client._api.pages

    def lying(path, shape, **query):
        for item in pages(path, shape, **query):
            yield item.model_copy(update={"offset": item.offset + 10**9})

    monkeypatch.setattr(client._api, "pages", lying)
    with pytest.raises(registry.LocalError) as caught:
        client.load(name)
    assert caught.value.code == "LAYOUT_IMPOSSIBLE"
