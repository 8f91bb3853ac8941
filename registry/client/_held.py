"""A directory that is always one whole version: a link to it, replaced in one step.

    weights -> .weights.follow/versions/7
    .weights.follow/
    ├── lock             held by the one that follows
    ├── state.json       what was dealt with last, and whether that came to its end
    ├── consumer         under which id the registry knows who follows here
    └── versions/7/      as `pull` leaves it; beside it at most the one before or the one that is coming

The next version begins as links to the files of the present one, so that what they share costs nothing; a pull replaces
files and never writes into them.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from registry.client._partfile import UnwritableFileError
from registry.domain.errors import LocalError
from registry.domain.paths import SIDECAR

_SCHEMA = 1


class AlreadyFollowedError(LocalError):
    """Another process follows a reference into the same directory."""

    code = "ALREADY_FOLLOWED"
    remedy = "Name another directory with -o, or end the other process."


class DirectoryTakenError(LocalError):
    """The directory to be held at a version has files of its own, so that no link can take its place."""

    code = "DIRECTORY_TAKEN"
    remedy = "Name a directory that does not exist, or move this one away."


@dataclass(frozen=True, slots=True)
class Mark:
    """What was dealt with last. `running` says that its command had begun, as `process`, and nobody saw it end."""

    follows: str
    seq: int
    number: int
    state: Literal["running", "done"]
    process: str | None = None


class HeldDirectory:
    """One such directory. `with` it: that locks it. Methods raise UnwritableFileError."""

    def __init__(self, path: Path) -> None:
        """Nothing is touched yet."""
        self.path = path.parent.resolve() / path.name
        self._work = self.path.parent / f".{self.path.name}.follow"
        self._versions = self._work / "versions"
        self._lock = -1

    def __enter__(self) -> Self:
        """Raises AlreadyFollowedError, DirectoryTakenError or UnwritableFileError."""
        with self._writing():
            self._versions.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._take()
        except BlockingIOError:
            os.close(self._lock)
            raise AlreadyFollowedError(f"Another process follows into {self.path}.", path=str(self.path)) from None
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._lock)

    @property
    def number(self) -> int | None:
        """The version that the directory is, if it is any yet."""
        found = self._target()
        return int(found.name) if found is not None and found.is_dir() else None

    def prepare(self, number: int) -> Path:
        """The place for a version, with what the present one has in common with whatever comes there."""
        place, now = self._versions / str(number), self._target()
        with self._writing():
            if not place.exists() and now is not None and now.is_dir():
                draft = place.with_suffix(".new")
                shutil.rmtree(draft, ignore_errors=True)
                _link_files(now, draft)
                draft.rename(place)
        return place

    def switch(self, number: int) -> None:
        """Make the directory this version, which is whole, in one step that survives a power cut."""
        with self._writing():
            _sync(self._versions)
            draft = self._work / "link"
            draft.unlink(missing_ok=True)
            draft.symlink_to(Path(self._work.name) / "versions" / str(number))
            draft.replace(self.path)
            _sync(self.path.parent)

    def tidy(self) -> None:
        """Remove every version but the present one. What somebody has open stays theirs."""
        kept = self._target()
        with self._writing():
            for each in self._versions.iterdir():
                if kept is None or each.name != kept.name:
                    doomed = each.with_suffix(".old")  # no place for a version: half of one is never found there
                    if doomed != each:
                        shutil.rmtree(doomed, ignore_errors=True)
                        each.rename(doomed)
                    shutil.rmtree(doomed)

    def mark(self) -> Mark | None:
        """What was dealt with last; None if nothing, or nothing that can be read."""
        try:
            document = json.loads((self._work / "state.json").read_bytes())
            return Mark(**document["mark"]) if document["schema"] == _SCHEMA else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, mark: Mark) -> None:
        """Note it so that a power cut cannot take it back."""
        state, document = self._work / "state.json", {"schema": _SCHEMA, "mark": asdict(mark)}
        with self._writing():
            with state.with_suffix(".new").open("w") as draft:
                draft.write(json.dumps(document))
                draft.flush()
                os.fsync(draft.fileno())
            state.with_suffix(".new").replace(state)
            _sync(self._work)

    def consumer(self, follows: str) -> str:
        """Under which id the registry knows who follows this reference here; empty if it does not."""
        try:
            known, _, reference = (self._work / "consumer").read_text().partition(" ")
        except (OSError, ValueError):
            return ""
        return known if reference == follows else ""

    def write_consumer(self, consumer_id: str, follows: str) -> None:
        """Note it, so that one that is killed and comes again is not counted twice."""
        with suppress(OSError):
            (self._work / "consumer").write_text(f"{consumer_id} {follows}")

    def _target(self) -> Path | None:
        """Where the link leads, if it is one of ours."""
        if not self.path.is_symlink():
            return None
        target = self.path.parent / self.path.readlink()
        return target if target.parent == self._versions and target.name.isdecimal() else None

    def _take(self) -> None:
        with suppress(OSError):
            self.path.rmdir()  # an empty directory makes room; a link or a full one stays
        if (self.path.is_symlink() and self._target() is None) or (self.path.exists() and not self.path.is_symlink()):
            raise DirectoryTakenError(f"{self.path} is there already.", path=str(self.path))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            message = f"{self.path} cannot be written: {failure.strerror}."
            raise UnwritableFileError(message, path=str(self.path)) from failure


def _link_files(source: Path, target: Path) -> None:
    """The same files under another directory, as far as a pull has written them."""
    for folder, _, files in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir(parents=True)
        for name in files:
            if place.name == SIDECAR and name == "lock":
                continue
            try:
                os.link(Path(folder) / name, place / name)
            except OSError:  # no links on this file system
                shutil.copy2(Path(folder) / name, place / name)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
