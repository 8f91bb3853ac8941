"""Versions kept on this machine: `<cache>/versions/<namespace>/<name>/<digest>/`, the names folded.

Nobody locks what they read: a file appears whole, never changes, and goes by losing its name, so that whoever has it
open or mapped keeps it. Only who pulls into a version's directory locks that one.
"""

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from registry.client._folder import Folder
from registry.domain.names import ModelName, fold
from registry.domain.references import parse_reference

# Kept versions that are looked through for segments a pull can reuse: of the model itself, of the whole cache, and
# of a parent's model until the parent is found. More would cost more than they save.
_OF_MODEL, _OF_ALL, _OF_PARENT = 4, 8, 16
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed from the cache."""

    versions: int
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A version in the cache: `used_at` is when it was last pulled or loaded, in seconds since 1970."""

    model: str
    number: int
    digest: str
    size: int
    used_at: float
    path: Path


class Cache:
    """The cache below one directory, which need not exist."""

    def __init__(self, root: Path, *, limit: int = 0) -> None:
        """Nothing is touched yet. `limit` is how many bytes it should keep at most, 0 for any number."""
        self._versions = root.expanduser() / "versions"
        self._trash = root.expanduser() / "trash"
        self._limit = limit

    def folder(self, model: ModelName, digest: str) -> Folder:
        """The place of a version, by its digest in hex, with whatever is there."""
        return Folder.read(self._model(model) / digest)

    def kept(self) -> list[Kept]:
        """Every version that is here, the last used first."""
        found = []
        for path in self._all():
            folder = Folder.read(path)
            found.append(Kept(folder.model, folder.number, path.name, _size(path), _used_at(path), path))
        return sorted(found, key=lambda kept: kept.used_at, reverse=True)

    def relatives(self, model: ModelName, parents: Iterable[str], *, but: str) -> list[Folder]:
        """Versions here that may share segments with one of the model: its others, its parents, the last used ones."""
        paths = _newest(_directories(self._model(model)), _OF_MODEL)
        found = {path: Folder.read(path) for path in paths if path.name != but}
        for parent in parents:
            reference = parse_reference(parent)
            for path in _newest(_directories(self._model(reference.model)), _OF_PARENT):
                folder = found.get(path) or Folder.read(path)
                if folder.number == reference.number:
                    found[path] = folder
        for path in _newest(self._all(), _OF_ALL):
            if path not in found and path.name != but:
                found[path] = Folder.read(path)
        return list(found.values())

    def prune(self, *, unused_days: float) -> Pruned:
        """Remove every version that was not used for so long. Raises UnwritableFileError."""
        limit = time.time() - unused_days * _DAY
        return self._remove(path for path in self._all() if _used_at(path) <= limit)

    def make_room(self, limit: int | None = None, *, unused_since: float | None = None) -> Pruned:
        """Remove the versions not used for longest until the rest fits the limit, by default the cache's own.

        What was used after `unused_since` stays, as does what somebody is pulling. Raises UnwritableFileError.
        """
        limit = (self._limit or None) if limit is None else limit
        if limit is None:
            return Pruned(0, 0)
        paths = _newest(self._all(), None)
        total = 0
        doomed = []
        for path in paths:
            total += _size(path)
            if total > limit and (unused_since is None or _used_at(path) < unused_since):
                doomed.append(path)
        return self._remove(reversed(doomed))

    def _remove(self, paths: Iterable[Path]) -> Pruned:
        shutil.rmtree(self._trash, ignore_errors=True)  # what a process that died has left
        count = freed = 0
        for path in paths:
            size = _size(path)
            if Folder(path).remove(self._trash):
                count += 1
                freed += size
        return Pruned(count, freed)

    def _all(self) -> Iterator[Path]:
        for namespace in _directories(self._versions):
            for model in _directories(namespace):
                yield from _directories(model)

    def _model(self, model: ModelName) -> Path:
        return self._versions / fold(model.namespace) / fold(model.name)


def _newest(paths: Iterable[Path], count: int | None) -> list[Path]:
    return sorted(paths, key=_used_at, reverse=True)[:count]


def _directories(path: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from [each for each in path.iterdir() if each.is_dir()]


def _size(version: Path) -> int:
    total = 0
    for file in version.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _used_at(version: Path) -> float:
    try:
        return (version / ".registry" / "manifest.json").stat().st_mtime
    except OSError:
        return 0.0  # a pull that never got far
