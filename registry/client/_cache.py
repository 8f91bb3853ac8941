"""Versions kept on this machine: `<cache>/versions/<namespace>/<name>/<digest>/`, the names folded."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.client._folder import Folder
from registry.domain.names import ModelName, fold

# Versions of a model that are looked through for segments a pull can reuse; more would cost more than they save.
_NEIGHBOURS = 4
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed from the cache."""

    versions: int
    freed_bytes: int


class Cache:
    """The cache below one directory, which need not exist."""

    def __init__(self, root: Path) -> None:
        """Nothing is touched yet."""
        self._versions = root.expanduser() / "versions"

    def folder(self, model: ModelName, digest: str) -> Folder:
        """The place of a version, by its digest in hex, with whatever is there."""
        return Folder.read(self._model(model) / digest)

    def neighbours(self, model: ModelName, *, but: str) -> list[Folder]:
        """Other versions of the model that are here, the last used first."""
        others = [path for path in _directories(self._model(model)) if path.name != but]
        others.sort(key=_used_at, reverse=True)
        return [Folder.read(path) for path in others[:_NEIGHBOURS]]

    def prune(self, *, unused_days: float) -> Pruned:
        """Remove every version that was not used for so long."""
        limit = time.time() - unused_days * _DAY
        count = freed = 0
        for namespace in _directories(self._versions):
            for model in _directories(namespace):
                for version in _directories(model):
                    if _used_at(version) > limit:
                        continue
                    with Folder(version).locked():
                        freed += sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
                        shutil.rmtree(version)
                    count += 1
        return Pruned(count, freed)

    def _model(self, model: ModelName) -> Path:
        return self._versions / fold(model.namespace) / fold(model.name)


def _directories(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (each for each in path.iterdir() if each.is_dir())


def _used_at(version: Path) -> float:
    try:
        return (version / ".registry" / "manifest.json").stat().st_mtime
    except OSError:
        return 0.0  # a pull that never got far
