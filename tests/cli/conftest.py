"""A live registry for the command line's tests, and a way to type a command."""

import io
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from registry.cli import run
from registry.storage.s3 import StoreConfig
from tests.support.live import TOKEN, Live, live_registry

_numbers = count(1)


@dataclass(frozen=True)
class Done:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Type = Callable[..., Done]


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, s3_config: StoreConfig) -> Iterator[Live]:
    with live_registry(tmp_path_factory.mktemp("registry"), s3_config) as found:
        yield found


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nobody has logged in; the current directory is its own."""
    for name in ("REGISTRY_URL", "REGISTRY_TOKEN", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REGISTRY_CREDENTIALS", str(tmp_path / "home/credentials.json"))
    monkeypatch.setenv("REGISTRY_CACHE", str(tmp_path / "home/cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def typed(alone: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """Type a command line after `registry`; `{…}` are filled in, quoted."""

    def type_(line: str, *, stdin: str = "", code: int = 0, **values: object) -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        arguments = shlex.split(line.format(**{name: shlex.quote(str(value)) for name, value in values.items()}))
        given = run(arguments)
        out, err = capfd.readouterr()
        assert given == code, err
        return Done(given, out, err)

    return type_


@pytest.fixture
def registry(typed: Type, live: Live, monkeypatch: pytest.MonkeyPatch) -> Type:
    """The same, as the administrator of a live registry."""
    monkeypatch.setenv("REGISTRY_URL", live.url)
    monkeypatch.setenv("REGISTRY_TOKEN", TOKEN)
    return typed


@pytest.fixture
def name() -> str:
    return f"default/typed-{next(_numbers)}"


def write(path: Path, *, seed: int = 0, head: float = 0.0) -> Path:
    """A safetensors file of about a megabyte."""
    random = np.random.default_rng(seed)
    body = random.standard_normal((500, 500), dtype=np.float32)
    save_file({"body.weight": body, "head.weight": np.full((10, 10), head, np.float32)}, path)
    return path
