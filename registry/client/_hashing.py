"""sha256 of files and of their segments, on every core, while the file is read.

The sha256 of a whole file is one sequential stream and the longest job, so it starts first; segments are hashed beside
it in runs. Pieces come out as soon as they are known: an upload need not wait for the end of the file.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.client._workers import Crew, Lane
from registry.domain.errors import LocalError

# Enough segments a job that handing it out costs nothing, few enough that the first pieces are known soon.
_RUN_SIZE = 32 << 20

Span = tuple[int, int]
Progress = Callable[[int], None]


class FileChangedError(LocalError):
    """A file changed while it was read or uploaded."""

    code = "FILE_CHANGED"
    remedy = "Wait until whatever writes the file is done, then repeat the command."


class UnreadableFileError(LocalError):
    """A file that was named cannot be read."""

    code = "FILE_UNREADABLE"
    remedy = "Check the path and its permissions."


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment of a file: where it lies and the sha256 (hex) of its exact bytes."""

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file as it was read: its size, the sha256 of all of it, and its segments in order."""

    path: Path
    size: int
    sha256: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class _Identity:
    size: int
    modified: int
    inode: int


@dataclass(frozen=True, slots=True)
class _Job:
    file: int
    path: Path
    spans: tuple[Span, ...]  # empty: the whole file
    expected: _Identity


@dataclass(frozen=True, slots=True)
class _Result:
    job: _Job
    sha256: str
    pieces: tuple[Piece, ...]


def cores() -> int:
    """How many threads can compute at once in this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hash_file(
    path: Path, spans: Sequence[Span], *, threads: int | None = None, progress: Progress | None = None
) -> HashedFile:
    """Hash a file and its segments. `spans` are (offset, size), contiguous from 0 to the end.

    `progress` is told every number of bytes hashed, in this thread. Raises FileChangedError, UnreadableFileError.
    """
    return hash_files([(path, spans)], threads=threads, progress=progress)[0]


def hash_files(
    files: Sequence[tuple[Path, Sequence[Span]]], *, threads: int | None = None, progress: Progress | None = None
) -> tuple[HashedFile, ...]:
    """Hash several files at once; the answers are in the order of the question. Otherwise as `hash_file`."""
    with hashing(files, threads=threads, progress=progress) as work:
        deque(work, maxlen=0)
        return work.files()


class Hashing:
    """Hashing under way. Iterate for `(index of the file, piece)` as pieces become known; then ask for `files`."""

    def __init__(
        self, files: Sequence[tuple[Path, Sequence[Span]]], crew: Crew[_Job, _Result], progress: Progress | None
    ) -> None:
        """Hand out every job; they are few, and hold no bytes."""
        self._paths = [path for path, _ in files]
        self._identities = [_identify(path) for path in self._paths]
        self._pieces: list[list[Piece]] = [[] for _ in files]
        self._digests = [""] * len(files)
        self._crew = crew
        self._progress = progress
        for index, (path, spans) in enumerate(files):
            _check_spans(path, spans, self._identities[index].size)
        for index, (path, spans) in enumerate(files):
            expected = self._identities[index]
            if len(spans) != 1:
                crew.submit(_Job(index, path, (), expected))
            for run in _runs(spans):
                crew.submit(_Job(index, path, run, expected))

    def __iter__(self) -> Iterator[tuple[int, Piece]]:
        """Pieces as they are known; those of one file need not come in order."""
        while self._crew.unfinished:
            result = self._crew.result()
            job = result.job
            if not job.spans or job.spans == ((0, job.expected.size),):
                self._digests[job.file] = result.sha256
            self._pieces[job.file] += result.pieces
            if self._progress is not None:
                self._progress(sum(piece.size for piece in result.pieces))
            for piece in result.pieces:
                yield job.file, piece

    def files(self) -> tuple[HashedFile, ...]:
        """Every file, hashed to its end. Raises FileChangedError if one is not what it was at the start."""
        deque(self, maxlen=0)
        found: list[HashedFile] = []
        for path, identity, pieces, digest in zip(
            self._paths, self._identities, self._pieces, self._digests, strict=True
        ):
            if _identify(path) != identity:
                raise _changed(path)
            ordered = tuple(sorted(pieces, key=lambda piece: piece.offset))
            found.append(HashedFile(path, identity.size, digest, ordered))
        return tuple(found)


@contextmanager
def hashing(
    files: Sequence[tuple[Path, Sequence[Span]]], *, threads: int | None = None, progress: Progress | None = None
) -> Iterator[Hashing]:
    """Hash in the background from now until the block is left."""
    with Crew(_hash, threads=threads or max(2, cores())) as crew:
        yield Hashing(files, crew, progress)


def verify_file(path: Path, sha256: str) -> bool:
    """Read the whole file again and say whether it is what its digest says. Raises UnreadableFileError."""
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError as failure:
        raise _unreadable(path, failure) from failure


def is_unchanged(path: Path, piece: Piece, lane: Lane) -> bool:
    """Whether the file still has these bytes there. Raises UnreadableFileError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as failure:
        raise _unreadable(path, failure) from failure
    try:
        return _digest(descriptor, (piece.offset, piece.size), path, lane) == piece.sha256
    except FileChangedError:
        return False
    except OSError as failure:
        raise _unreadable(path, failure) from failure
    finally:
        os.close(descriptor)


def _hash(job: _Job, lane: Lane) -> _Result:
    try:
        descriptor = os.open(job.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as failure:
        raise _unreadable(job.path, failure) from failure
    try:
        whole = (0, job.expected.size)
        digests = [_digest(descriptor, span, job.path, lane) for span in job.spans or (whole,)]
        if _identity(os.fstat(descriptor)) != job.expected:
            raise _changed(job.path)
    except OSError as failure:
        raise _unreadable(job.path, failure) from failure
    finally:
        os.close(descriptor)
    pieces = tuple(Piece(*span, digest) for span, digest in zip(job.spans, digests, strict=bool(job.spans)))
    return _Result(job, digests[0], pieces)


def _digest(descriptor: int, span: Span, path: Path, lane: Lane) -> str:
    position, end = span[0], span[0] + span[1]
    running = hashlib.sha256()
    while position < end:
        lane.check()
        got = os.preadv(descriptor, [lane.buffer[: end - position]], position)
        if got == 0:
            raise _changed(path)
        running.update(lane.buffer[:got])
        position += got
    return running.hexdigest()


def _runs(spans: Sequence[Span]) -> Iterator[tuple[Span, ...]]:
    run: list[Span] = []
    size = 0
    for span in spans:
        run.append(span)
        size += span[1]
        if size >= _RUN_SIZE:
            yield tuple(run)
            run, size = [], 0
    if run:
        yield tuple(run)


def _check_spans(path: Path, spans: Sequence[Span], size: int) -> None:
    position = 0
    for offset, length in spans:
        if offset != position or length <= 0:
            raise ValueError(f"the spans of {path} are not contiguous at {position}")
        position += length
    if position != size:
        # The caller cut the file by its size a moment ago.
        raise _changed(path)


def _identify(path: Path) -> _Identity:
    try:
        return _identity(path.stat())
    except OSError as failure:
        raise _unreadable(path, failure) from failure


def _identity(stat: os.stat_result) -> _Identity:
    return _Identity(stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _changed(path: Path) -> FileChangedError:
    return FileChangedError(f"{path} changed while it was being read.", path=str(path))


def _unreadable(path: Path, failure: OSError) -> UnreadableFileError:
    return UnreadableFileError(f"{path} cannot be read: {failure.strerror or failure}.", path=str(path))
