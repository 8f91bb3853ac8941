"""Segments from S3, or from files at hand, to a file or into memory: in parallel, each verified as it lands.

The engine knows nothing of the registry's API: `sign` turns pieces into URLs, a batch at a time, and runs in the
calling thread. A target is either the old file or the whole new one; what was fetched before a failure is kept beside
it and not fetched again.
"""

import hashlib
import http.client
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from registry.client._hashing import Piece
from registry.client._http import Answer, StorageRefusedError, place, receive
from registry.client._local import LocalSegments
from registry.client._partfile import PartFile
from registry.client._reuse import Copied, Filling, Run, runs
from registry.client._sinks import InFile, InMemory, Several, Sink
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


@dataclass(frozen=True, slots=True)
class _Get:
    """A segment to be read from the store."""

    piece: Piece
    sink: Sink
    url: str
    signing: int  # which round of signing the URL is of


@dataclass(frozen=True, slots=True)
class _Got:
    """What came of it; if not fetched, the store takes the URL for expired."""

    job: _Get
    is_fetched: bool
    answer: Answer | None = None


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
        gather = _Gather(Filling(part, places), reuse or LocalSegments(), progress)
        if not part.is_new:
            gather.resume(threads)
        transfer = _Transfer(target.name, sign, gather.landed, gather)
        gather.plan(transfer, gather.missing)
        transfer.run(threads)
        part.publish()
    return FetchReport(transfer.fetched, gather.reused, gather.resumed)


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
    for piece, buffer in buffers.items():
        if buffer.nbytes != piece.size:
            raise ValueError(f"a buffer of {buffer.nbytes} bytes cannot hold a segment of {piece.size}")
    sinks = [(piece, InMemory(buffer.cast("B"))) for piece, buffer in buffers.items()]
    return fetch_each(sinks, sign, name=name, threads=threads, progress=progress)


def fetch_each(
    wanted: Iterable[tuple[Piece, Sink]],
    sign: Sign,
    *,
    name: str = "the artifact",
    threads: int = THREADS,
    progress: Progress | None = None,
) -> int:
    """Give each sink the bytes of its piece; otherwise as `fetch_into`. Equal pieces are fetched once.

    A sink sees bytes before they are verified: what it holds counts only once this returns.
    """
    sinks: dict[str, list[Sink]] = {}
    firsts: dict[str, Piece] = {}
    for piece, sink in wanted:
        firsts.setdefault(piece.sha256, piece)
        sinks.setdefault(piece.sha256, []).append(sink)

    def done(piece: Piece) -> None:
        if progress is not None:
            progress(piece.size * len(sinks[piece.sha256]))

    transfer = _Transfer(name, sign, done)
    for sha256, piece in firsts.items():
        same = sinks[sha256]
        transfer.waiting.append((piece, same[0] if len(same) == 1 else Several(same)))
    transfer.run(threads)
    return transfer.fetched


class _Gather:
    """What of a file is in place, and what lies elsewhere on this machine."""

    def __init__(self, filling: Filling, local: LocalSegments, progress: Progress | None) -> None:
        self._filling = filling
        self._local = local
        self._progress = progress
        self.missing = dict.fromkeys(filling.places)  # in the order of the file
        self.reused = 0
        self.resumed = 0

    def sink(self, piece: Piece) -> Sink:
        """Where a segment from the store goes."""
        return InFile(self._filling.part, self._filling.places[piece])

    def landed(self, piece: Piece) -> None:
        """One segment is in all its places."""
        self._filling.part.is_useful = True
        del self.missing[piece]
        if self._progress is not None:
            self._progress(piece.size * len(self._filling.places[piece]))

    def resume(self, threads: int) -> None:
        """Keep what an earlier, interrupted transfer left, as far as its hashes agree."""

        def judge(piece: Piece, lane: Lane) -> tuple[Piece, bool]:
            return piece, self._filling.is_in_place(piece, lane)

        with Crew(judge, threads=threads) as crew:
            for piece in self.missing:
                crew.submit(piece)
            while crew.unfinished:
                piece, found = crew.result()
                if found:
                    self.landed(piece)
                    self.resumed += piece.size * len(self._filling.places[piece])

    def plan(self, transfer: "_Transfer", pieces: Iterable[Piece]) -> None:
        """Hand over segments: to be copied if they have a place here, else to be fetched."""
        left = list(pieces)
        at_hand = list(runs(left, self._local))
        transfer.runs += at_hand
        copied = {piece for run in at_hand for piece in run.pieces}
        transfer.waiting += [(piece, self.sink(piece)) for piece in left if piece not in copied]

    def copy(self, run: Run, lane: Lane) -> Copied:
        """In a worker: bring a run into the file."""
        return self._filling.copy(run, lane)

    def settle(self, copied: Copied, transfer: "_Transfer") -> None:
        """What was copied is in place; what proved wrong is looked for elsewhere."""
        for piece in copied.good:
            self.landed(piece)
            self.reused += piece.size
        for piece in copied.bad:
            self._local.forget(piece.sha256, copied.run.place(piece))
        self.plan(transfer, copied.bad)


class _Transfer:
    """Hands out what is to be copied and fetched, in turns, so that one waits while the other computes."""

    def __init__(self, name: str, sign: Sign, done: Callable[[Piece], None], gather: _Gather | None = None) -> None:
        self._name = name
        self._sign = sign
        self._done = done
        self._gather = gather
        self._urls: dict[str, str] = {}
        self._refreshed: Counter[str] = Counter()
        self._signing = 0
        self._turn = False
        self.waiting: deque[tuple[Piece, Sink]] = deque()
        self.runs: deque[Run] = deque()
        self.fetched = 0

    def run(self, threads: int) -> None:
        """Return when every segment is where it belongs."""
        with Crew(self._work, threads=threads) as crew:
            while self.waiting or self.runs or crew.unfinished:
                while (self.waiting or self.runs) and crew.unfinished < _AHEAD and not crew.ready():
                    crew.submit(self._next())
                outcome = crew.result()
                if isinstance(outcome, _Got):
                    self._settle(outcome)
                elif self._gather is not None:
                    self._gather.settle(outcome, self)

    def _work(self, job: _Get | Run, lane: Lane) -> _Got | Copied:
        if isinstance(job, _Get):
            return _get(self._name, job, lane)
        assert self._gather is not None  # noqa: S101 - who has runs has a file
        return self._gather.copy(job, lane)

    def _next(self) -> _Get | Run:
        self._turn = not self._turn
        if self.runs and (self._turn or not self.waiting):
            return self.runs.popleft()
        piece, sink = self.waiting.popleft()
        if piece.sha256 not in self._urls:
            unsigned = (other for other, _ in self.waiting if other.sha256 not in self._urls)
            self._urls.update(self._sign([piece, *islice(unsigned, _BATCH - 1)]))
        return _Get(piece, sink, self._urls.pop(piece.sha256), self._signing)

    def _settle(self, got: _Got) -> None:
        job = got.job
        if got.is_fetched:
            self.fetched += job.piece.size
            self._done(job.piece)
            return
        self._refreshed[job.piece.sha256] += 1
        if self._refreshed[job.piece.sha256] > _REFRESHES:
            offset = job.piece.offset
            message = f"{place(job.url)} refused the bytes of {self._name} from {offset:,} on with {got.answer}."
            raise StorageRefusedError(message)
        if job.signing == self._signing:
            # If one URL has expired, so have those that were signed with it.
            self._urls.clear()
            self._signing += 1
        self.waiting.appendleft((job.piece, job.sink))


def _get(name: str, job: _Get, lane: Lane) -> _Got:
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


def _try(job: _Get, lane: Lane) -> _Got | Again | None:
    """Fetch once. None if every byte came and they are the wrong ones."""
    response = lane.connections.request("GET", job.url, {})
    if response.status != _OK:
        answer = lane.connections.finish(response)
        if answer.status in _STALE:
            return _Got(job, is_fetched=False, answer=answer)
        if answer.status >= _SERVER_ERROR or answer.status in _BUSY:
            return Again(str(answer), answer.retry_after)
        raise StorageRefusedError(
            f"{place(job.url)} refused to be read with {answer}.", status=answer.status, s3_code=answer.code
        )
    if response.length not in {None, job.piece.size}:
        lane.connections.drop()
        return None
    return _land(job, response, lane)


def _land(job: _Get, response: http.client.HTTPResponse, lane: Lane) -> _Got | None:
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
    return _Got(job, is_fetched=True) if running.hexdigest() == job.piece.sha256 else None


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
