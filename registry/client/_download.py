"""Segments from S3, or from files at hand, to a file or into memory: in parallel, each verified as it lands.

The engine knows nothing of the registry's API: `sign` turns pieces into URLs, a batch at a time, and runs in the
calling thread. A target is either the old file or the whole new one; what was fetched before a failure is kept beside
it and not fetched again.
"""

import hashlib
import http.client
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from pathlib import Path
from typing import Protocol

from registry.client._hashing import Piece
from registry.client._http import Answer, StorageRefusedError, place, receive
from registry.client._local import LocalSegments
from registry.client._partfile import PartFile
from registry.client._workers import Again, Crew, Lane, persist
from registry.domain.errors import LocalError

THREADS = 8
# URLs asked for at once, and jobs handed out ahead of the workers.
_BATCH, _AHEAD = 500, 32
_REFRESHES = 3
_TRIES_AT_DAMAGE = 2

_OK = 200
_STALE = frozenset({400, 401, 403, 404, 410})
_BUSY = frozenset({408, 409, 425, 429})
_SERVER_ERROR = 500
_SHA256 = re.compile(r"[0-9a-f]{64}")

Sign = Callable[[Sequence[Piece]], Mapping[str, str]]
Progress = Callable[[int], None]


class DamagedBytesError(LocalError):
    """The store holds other bytes for a segment than were published, so nothing was written."""

    code = "SEGMENT_DAMAGED"
    remedy = "Tell whoever runs the registry: the stored copy is damaged; another version may be intact."


class BadLayoutError(LocalError):
    """The list of segments does not describe a file of the stated size."""

    code = "LAYOUT_IMPOSSIBLE"
    remedy = "Report it: the registry described a file that cannot be."


@dataclass(frozen=True, slots=True)
class FetchReport:
    """Where the bytes of a file came from. Equal segments of one file count once as fetched or reused."""

    fetched_bytes: int
    reused_bytes: int
    resumed_bytes: int


class _Sink(Protocol):
    """Where the bytes of one segment go."""

    def window(self, start: int, size: int, buffer: memoryview) -> memoryview:
        """Where to receive up to `size` bytes that belong at `start` of the segment."""

    def store(self, start: int, view: memoryview) -> None:
        """Keep what was received into the window."""


@dataclass(frozen=True, slots=True)
class _InFile:
    part: PartFile
    offsets: tuple[int, ...]

    def window(self, start: int, size: int, buffer: memoryview) -> memoryview:  # noqa: ARG002 - any window will do
        return buffer[:size]

    def store(self, start: int, view: memoryview) -> None:
        for offset in self.offsets:
            self.part.write(view, offset + start)


@dataclass(frozen=True, slots=True)
class _InMemory:
    views: tuple[memoryview, ...]

    def window(self, start: int, size: int, buffer: memoryview) -> memoryview:
        return self.views[0][start : start + min(size, len(buffer))]

    def store(self, start: int, view: memoryview) -> None:
        for other in self.views[1:]:
            other[start : start + len(view)] = view


@dataclass(frozen=True, slots=True)
class _Job:
    piece: Piece
    sink: _Sink
    url: str
    signing: int  # which round of signing the URL is of


class _Outcome(Enum):
    FETCHED = auto()
    STALE = auto()


@dataclass(frozen=True, slots=True)
class _Settled:
    job: _Job
    outcome: _Outcome
    answer: Answer | None


def fetch_file(
    target: Path,
    pieces: Sequence[Piece],
    sign: Sign,
    *,
    size: int,
    reuse: LocalSegments | None = None,
    threads: int = THREADS,
    progress: Progress | None = None,
    durable: bool = True,
) -> FetchReport:
    """Make `target` the file that `pieces` describe, or leave it as it was.

    `sign` is given pieces and returns a URL for each by sha256; it is asked again when URLs expire. `progress` is told
    every number of bytes that are in place, in this thread. Without `durable` nothing is flushed to the disk.
    Raises BadLayoutError, DamagedBytesError, DiskFullError, UnwritableFileError, TargetBusyError, StorageRefusedError,
    StorageUnreachableError, and whatever `sign` raises.
    """
    places = _places(target.name, pieces, size)
    with PartFile(target, size, durable=durable) as part:
        gather = _Gather(part, places, reuse or LocalSegments(), progress)
        if not part.is_new:
            gather.resume(threads)
        if reuse is not None:
            gather.take(threads)
        fetched = _fetch(target.name, gather.missing(), sign, threads=threads, done=gather.landed)
        part.publish()
    return FetchReport(fetched, gather.reused, gather.resumed)


def fetch_into(
    buffers: Mapping[Piece, memoryview],
    sign: Sign,
    *,
    name: str = "the artifact",
    threads: int = THREADS,
    progress: Progress | None = None,
) -> int:
    """Fill each buffer with the verified bytes of its piece; returns how many bytes were fetched.

    Buffers are writable, contiguous bytes of the piece's size. After an error their content means nothing.
    Raises DamagedBytesError, StorageRefusedError, StorageUnreachableError, and whatever `sign` raises.
    """
    views: dict[str, list[memoryview]] = {}
    firsts: dict[str, Piece] = {}
    for piece, buffer in buffers.items():
        if buffer.nbytes != piece.size:
            raise ValueError(f"a buffer of {buffer.nbytes} bytes cannot hold a segment of {piece.size}")
        firsts.setdefault(piece.sha256, piece)
        views.setdefault(piece.sha256, []).append(buffer.cast("B"))
    jobs = [(piece, _InMemory(tuple(views[sha256]))) for sha256, piece in firsts.items()]

    def done(piece: Piece) -> None:
        if progress is not None:
            progress(piece.size * len(views[piece.sha256]))

    return _fetch(name, jobs, sign, threads=threads, done=done)


class _Gather:
    """What of a file is in place, and where the rest may come from."""

    def __init__(
        self, part: PartFile, places: dict[Piece, tuple[int, ...]], local: LocalSegments, progress: Progress | None
    ) -> None:
        self._part = part
        self._missing = places
        self._local = local
        self._progress = progress
        self.reused = 0
        self.resumed = 0

    def missing(self) -> list[tuple[Piece, _Sink]]:
        return [(piece, _InFile(self._part, offsets)) for piece, offsets in self._missing.items()]

    def landed(self, piece: Piece) -> None:
        """One piece is in all its places."""
        self._part.is_useful = True
        if self._progress is not None:
            self._progress(piece.size * len(self._missing[piece]))

    def resume(self, threads: int) -> None:
        """Keep what an earlier, interrupted transfer left, as far as its hashes agree."""
        self.resumed = self._settle(self._is_in_place, threads, lambda piece: len(self._missing[piece]))

    def take(self, threads: int) -> None:
        """Copy what lies elsewhere on this machine, as far as its hashes agree."""
        self.reused = self._settle(self._is_copied, threads, lambda _: 1)

    def _settle(self, work: Callable[[Piece, Lane], bool], threads: int, times: Callable[[Piece], int]) -> int:
        settled = 0

        def judge(piece: Piece, lane: Lane) -> tuple[Piece, bool]:
            return piece, work(piece, lane)

        with Crew(judge, threads=threads) as crew:
            for piece in self._missing:
                crew.submit(piece)
            while crew.unfinished:
                piece, found = crew.result()
                if found:
                    self.landed(piece)
                    settled += piece.size * times(piece)
                    del self._missing[piece]
        return settled

    def _is_in_place(self, piece: Piece, lane: Lane) -> bool:
        return all(
            self._part.holds_data(offset, piece.size) and _hashes_to(self._part.descriptor, offset, piece, lane)
            for offset in self._missing[piece]
        )

    def _is_copied(self, piece: Piece, lane: Lane) -> bool:
        for location in self._local.find(piece.sha256, piece.size):
            with suppress(OSError):
                source = os.open(location.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if all(self._copy(source, location.offset, piece, to, lane) for to in self._missing[piece]):
                        return True
                finally:
                    os.close(source)
            self._local.forget(piece.sha256, location)
        return False

    def _copy(self, source: int, offset: int, piece: Piece, to: int, lane: Lane) -> bool:
        if self._part.copy(source, offset, piece.size, to):
            # What arrived is hashed, not what was there a moment before.
            return _hashes_to(self._part.descriptor, to, piece, lane)
        running = hashlib.sha256()
        for start in range(0, piece.size, len(lane.buffer)):
            lane.check()
            view = lane.buffer[: piece.size - start]
            if os.preadv(source, [view], offset + start) != len(view):
                return False
            running.update(view)
            self._part.write(view, to + start)
        return running.hexdigest() == piece.sha256


def _fetch(
    name: str,
    wanted: Sequence[tuple[Piece, _Sink]],
    sign: Sign,
    *,
    threads: int,
    done: Callable[[Piece], None],
) -> int:
    waiting = deque(wanted)
    urls: dict[str, str] = {}
    refreshed: Counter[str] = Counter()
    fetched = signing = 0

    def work(job: _Job, lane: Lane) -> _Settled:
        return _get(name, job, lane)

    with Crew(work, threads=threads) as crew:
        while waiting or crew.unfinished:
            while waiting and crew.unfinished < _AHEAD and not crew.ready():
                piece, sink = waiting.popleft()
                if piece.sha256 not in urls:
                    unsigned = (other for other, _ in waiting if other.sha256 not in urls)
                    urls.update(sign([piece, *islice(unsigned, _BATCH - 1)]))
                crew.submit(_Job(piece, sink, urls.pop(piece.sha256), signing))
            settled = crew.result()
            job = settled.job
            if settled.outcome is _Outcome.FETCHED:
                fetched += job.piece.size
                done(job.piece)
                continue
            refreshed[job.piece.sha256] += 1
            if refreshed[job.piece.sha256] > _REFRESHES:
                raise StorageRefusedError(
                    f"{place(job.url)} refused the bytes of {name} from {job.piece.offset:,} on with {settled.answer}."
                )
            if job.signing == signing:
                # If one URL has expired, so have those that were signed with it.
                urls.clear()
                signing += 1
            waiting.appendleft((job.piece, job.sink))
    return fetched


def _get(name: str, job: _Job, lane: Lane) -> _Settled:
    for _ in range(_TRIES_AT_DAMAGE):
        outcome = persist(lane, job.url, lambda: _try(job, lane))
        if outcome is not None:
            return outcome
    piece = job.piece
    raise DamagedBytesError(
        f"The stored bytes {piece.offset:,} to {piece.offset + piece.size:,} of {name} are damaged.",
        artifact=name,
        offset=piece.offset,
        size=piece.size,
        sha256=piece.sha256,
    )


def _try(job: _Job, lane: Lane) -> _Settled | Again | None:
    """Fetch once. None if every byte came and they are the wrong ones."""
    response = lane.connections.request("GET", job.url, {})
    if response.status != _OK:
        answer = lane.connections.finish(response)
        if answer.status in _STALE:
            return _Settled(job, _Outcome.STALE, answer)
        if answer.status >= _SERVER_ERROR or answer.status in _BUSY:
            return Again(str(answer), answer.retry_after)
        raise StorageRefusedError(
            f"{place(job.url)} refused to be read with {answer}.", status=answer.status, s3_code=answer.code
        )
    if response.length not in {None, job.piece.size}:
        lane.connections.drop()
        return None
    return _land(job, response, lane)


def _land(job: _Job, response: http.client.HTTPResponse, lane: Lane) -> _Settled | None:
    running = hashlib.sha256()
    size, start = job.piece.size, 0
    while start < size:
        lane.check()
        view = job.sink.window(start, size - start, lane.buffer)
        receive(response, view)
        running.update(view)
        job.sink.store(start, view)
        start += len(view)
    if response.read(1):
        lane.connections.drop()
        return None
    return _Settled(job, _Outcome.FETCHED, None) if running.hexdigest() == job.piece.sha256 else None


def _places(name: str, pieces: Sequence[Piece], size: int) -> dict[Piece, tuple[int, ...]]:
    """Each different segment once, with every offset it belongs at. The list comes from a server: it is checked."""
    offsets: dict[str, list[int]] = {}
    firsts: dict[str, Piece] = {}
    position = 0
    for piece in pieces:
        first = firsts.setdefault(piece.sha256, piece)
        known = _SHA256.fullmatch(piece.sha256) is not None and first.size == piece.size
        if piece.offset != position or piece.size <= 0 or not known:
            raise BadLayoutError(
                f"The segments of {name} do not fit together at byte {position:,}.", artifact=name, offset=position
            )
        offsets.setdefault(piece.sha256, []).append(piece.offset)
        position += piece.size
    if position != size:
        raise BadLayoutError(
            f"The segments of {name} hold {position:,} bytes and the file has {size:,}.", artifact=name
        )
    return {piece: tuple(offsets[sha256]) for sha256, piece in firsts.items()}


def _hashes_to(descriptor: int, offset: int, piece: Piece, lane: Lane) -> bool:
    running = hashlib.sha256()
    for start in range(0, piece.size, len(lane.buffer)):
        lane.check()
        view = lane.buffer[: piece.size - start]
        if os.preadv(descriptor, [view], offset + start) != len(view):
            return False
        running.update(view)
    return running.hexdigest() == piece.sha256
