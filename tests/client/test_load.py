import sys
from hashlib import sha256

import numpy as np
import pytest
from safetensors.numpy import save_file

import registry
from registry.client import _download, _load
from tests.client.conftest import arrays


@pytest.fixture
def fetched(monkeypatch):
    """How many bytes of segments `load` fetched."""
    total: list[int] = []
    fetch_into = _download.fetch_into

    def counting(buffers, sign, **options):
        size = fetch_into(buffers, sign, **options)
        total.append(size)
        return size

    monkeypatch.setattr(_load, "fetch_into", counting)
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
