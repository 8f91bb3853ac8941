"""A live registry for the library's tests, and weights to push to it."""

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import registry
from registry.storage.s3 import StoreConfig
from tests.support.live import Live, live_registry

_numbers = count(1)


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, s3_config: StoreConfig) -> Iterator[Live]:
    with live_registry(tmp_path_factory.mktemp("registry"), s3_config) as found:
        yield found


@pytest.fixture
def client(live: Live, tmp_path: Path) -> Iterator[registry.Client]:
    with live.client(cache=tmp_path / "cache") as found:
        yield found


@pytest.fixture
def name(client: registry.Client) -> str:
    """A model's name that no other test uses."""
    return f"default/model-{next(_numbers)}"


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    """Writes a safetensors file; the same seed and shapes give the same bytes."""

    def write(path: str = "model.safetensors", /, *, seed: int = 0, **changed: Any) -> Path:
        target = tmp_path / "weights" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays(seed) | changed, target)
        return target

    return write


def arrays(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """A small network: two tensors larger than a segment's worth of packing, several small ones."""
    random = np.random.default_rng(seed)
    shapes: Mapping[str, tuple[int, ...]] = {
        "body.weight": (1024, 1500),
        "neck.weight": (300, 1000),
        "head.weight": (80, 100),
        "head.bias": (80,),
        "norm.scale": (64,),
    }
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
