"""A directory that holds a pulled version, and the notes about it in `.registry/manifest.json`.

    {"schema": 1, "model": "vision/yolo11n", "number": 7, "digest": "sha256:…",
     "artifacts": [{"path", "size", "digest", "tensors"}, …],               what the version consists of
     "files": {path: {"size", "digest", "modified", "segments": [[sha256, size], …]}}}      what a pull has written here

While a pull runs, or after it was interrupted, `files` may still be of an older version. A file counts as ours and
untouched as long as its size and time of modification are the ones noted.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from registry.client._errors import PathOutsideError
from registry.client._hashing import Piece
from registry.client._partfile import UnwritableFileError
from registry.domain.paths import SIDECAR

_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of a version: `digest` is the sha256 of its bytes in hex, `tensors` how many are known to be in it."""

    path: str
    size: int
    digest: str
    tensors: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A file as a pull wrote it; `segments` are (sha256, size) in order."""

    size: int
    digest: str
    modified: int
    segments: tuple[tuple[str, int], ...]

    @property
    def pieces(self) -> list[Piece]:
        """Its segments with their offsets."""
        found, offset = [], 0
        for sha256, size in self.segments:
            found.append(Piece(offset, size, sha256))
            offset += size
        return found


@dataclass(slots=True)
class Folder:
    """A directory and its notes. Change it only under `locked`."""

    path: Path
    model: str = ""
    number: int = 0
    digest: str = ""
    artifacts: tuple[Artifact, ...] = ()
    files: dict[str, Held] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The directory's notes; none if there are none, or none that can be read: they only save work."""
        try:
            document = json.loads(_notes(path).read_bytes())
            if document["schema"] != _SCHEMA:
                return cls(path)
            artifacts = tuple(Artifact(**each) for each in document["artifacts"])
            files = {name: _held(each) for name, each in document["files"].items()}
            return cls(path, document["model"], document["number"], document["digest"], artifacts, files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(path)

    def write(self) -> None:
        """Replace the notes in one step. Raises UnwritableFileError."""
        document = {
            "schema": _SCHEMA,
            "model": self.model,
            "number": self.number,
            "digest": self.digest,
            "artifacts": [asdict(artifact) for artifact in self.artifacts],
            "files": {name: asdict(held) for name, held in self.files.items()},
        }
        notes = _notes(self.path)
        fresh = notes.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(document, separators=(",", ":")))
            fresh.replace(notes)
        except OSError as failure:
            raise UnwritableFileError(f"{notes} cannot be written: {failure.strerror}.", path=str(notes)) from failure

    @contextmanager
    def locked(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Wait until no other process pulls into this directory, and make it if it is new.

        `waiting` is called once if there is another. The lock of a process that dies is free. Raises
        UnwritableFileError.
        """
        lock = self.path / SIDECAR / "lock"
        try:
            descriptor = _lock(lock, waiting)
        except OSError as failure:
            raise UnwritableFileError(f"{self.path} cannot be written: {failure.strerror}.") from failure
        try:
            yield
        finally:
            os.close(descriptor)

    def remove(self, trash: Path) -> bool:
        """Remove the directory with all that is in it, by way of `trash`, unless somebody is pulling into it.

        Who has opened or mapped a file of it keeps the bytes. Raises UnwritableFileError.
        """
        try:
            descriptor = os.open(self.path / SIDECAR / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            return False  # gone already, or about to begin
        except OSError as failure:
            raise UnwritableFileError(f"{self.path} cannot be removed: {failure.strerror}.") from failure
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            trash.mkdir(parents=True, exist_ok=True)
            # In one step, so that nobody meets half of it.
            doomed = trash / uuid.uuid4().hex
            self.path.rename(doomed)
        except (BlockingIOError, FileNotFoundError):
            return False
        except OSError as failure:
            raise UnwritableFileError(f"{self.path} cannot be removed: {failure.strerror}.") from failure
        finally:
            os.close(descriptor)
        shutil.rmtree(doomed, ignore_errors=True)
        return True

    def holds(self, artifact: Artifact) -> bool:
        """Whether the artifact lies here as it was pulled, untouched since."""
        held = self.files.get(artifact.path)
        return held is not None and held.digest == artifact.digest and self.is_untouched(artifact.path)

    def is_untouched(self, path: str) -> bool:
        """Whether the file at `path` is still as a pull left it, as far as its size and time tell."""
        held = self.files.get(path)
        with suppress(OSError):
            stat = (self.path / path).stat(follow_symlinks=False)
            return held is not None and (stat.st_size, stat.st_mtime_ns) == (held.size, held.modified)
        return False

    def note(self, artifact: Artifact, pieces: Sequence[Piece]) -> None:
        """Take note of a file that is whole and in place."""
        modified = (self.path / artifact.path).stat().st_mtime_ns
        segments = tuple((piece.sha256, piece.size) for piece in pieces)
        self.files[artifact.path] = Held(artifact.size, artifact.digest, modified, segments)

    def place(self, path: str) -> Path:
        """Where an artifact goes. Raises PathOutsideError if a link on the way leads out of the directory."""
        target = self.path / path
        if not target.parent.resolve().is_relative_to(self.path.resolve()):
            raise PathOutsideError(f"{target} would be written outside {self.path}.", path=str(target))
        return target

    def clear_out(self, artifacts: Mapping[str, Artifact]) -> None:
        """Remove what an earlier pull wrote that is none of `artifacts`, unless somebody has changed it since."""
        for path, held in list(self.files.items()):
            artifact = artifacts.get(path)
            if artifact is not None and artifact.digest == held.digest:
                continue
            if self.is_untouched(path):
                self.place(path).unlink(missing_ok=True)
                self._remove_empty(path)
            del self.files[path]

    def touch(self) -> None:
        """Note that the version was used: what is pruned is what was not."""
        with suppress(OSError):
            os.utime(_notes(self.path))

    def _remove_empty(self, path: str) -> None:
        for parent in (self.path / path).parents:
            if parent == self.path:
                return
            try:
                parent.rmdir()
            except OSError:
                return


def _lock(path: Path, waiting: Callable[[], None] | None) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
                waiting = None
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Whoever held it before may have pruned the directory, and this lock with it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _notes(path: Path) -> Path:
    return path / SIDECAR / "manifest.json"


def _held(document: Mapping[str, Any]) -> Held:
    segments = tuple((str(sha256), int(size)) for sha256, size in document["segments"])
    return Held(document["size"], document["digest"], document["modified"], segments)
