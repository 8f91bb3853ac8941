"""The one pass over the bytes of a version: every digest is proved and every tensor measured while they go by.

    store ──4 MiB windows, several at once, into a ring of buffers──► in the order of the files:
        segments    sha256 of each segment: are these the bytes that were sent?
        whole       sha256 of each file: do the segments add up to it?
        digests     sha256 of each tensor
        statistics  NaN, infinities, zeros, extremes and norm of each tensor

Each of the four goes at its own pace in its own thread; hashing and arithmetic let the others run. A buffer is filled
again when all four are done with it, so that a file of any size takes the same 32 MiB. What one of them would only
repeat it leaves out: a file of one segment, or a tensor that is one segment, has the digest that was proved already.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod

from registry.domain.digest import format_digest
from registry.domain.health import Measured, Statistics
from registry.services.artifacts import Stretch
from registry.services.health import Found
from registry.services.integrity import ArrayToMeasure, Fault, FileToProve
from registry.storage.s3 import ObjectMissingError, Store
from registry.weights.health import Meter, Workspace

_WINDOW = 4 << 20
_BUFFERS = 8
_FETCHES = 6


@dataclass(frozen=True, slots=True)
class Proof:
    """What the pass found: everything wrong with the bytes or, if nothing is, every tensor."""

    faults: list[Fault] = field(default_factory=list)
    tensors: list[Found] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Piece:
    """The bytes `begin` to `end` of a window belong to a tensor; `ends` with its last ones."""

    array: ArrayToMeasure
    begin: int
    end: int
    ends: bool


@dataclass(frozen=True, slots=True)
class _Window:
    """A range of a file that is read at once: `size` bytes from `start` of one segment."""

    file: FileToProve
    stretch: Stretch
    start: int
    size: int
    pieces: tuple[_Piece, ...]

    @property
    def ends_stretch(self) -> bool:
        return self.start + self.size == self.stretch.size

    @property
    def ends_file(self) -> bool:
        return self.ends_stretch and self.stretch is self.file.stretches[-1]


def prove(store: Store, files: Sequence[FileToProve]) -> Proof:
    """Read each file once and say everything that is wrong, or what its tensors are.

    Raises StorageUnavailableError: that is no proof of anything.
    """
    segments, whole, digests, statistics = _Segments(), _Whole(), _Digests(), _Statistics()
    with ExitStack() as stack:
        fetching = stack.enter_context(ThreadPoolExecutor(_FETCHES, thread_name_prefix="prove-fetch"))
        lanes = [
            (reader, stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="prove")))
            for reader in (segments, whole, digests, statistics)
        ]
        ring: deque[tuple[bytearray, list[Future[None]]]] = deque()
        for window in _windows(files):
            buffer = _settled(*ring.popleft()) if len(ring) == _BUFFERS else bytearray(_WINDOW)
            view = memoryview(buffer)[: window.size]
            fetched = fetching.submit(_fetch, store, window, view)
            ring.append((buffer, [lane.submit(reader.take, window, fetched) for reader, lane in lanes]))
        while ring:
            _settled(*ring.popleft())
    faults = [fault for file in files for fault in segments.faults.get(file.artifact_id, []) or whole.faults_of(file)]
    if faults:
        return Proof(faults)
    return Proof(tensors=[_found(file, array, digests, statistics) for file in files for array in file.arrays])


def _windows(files: Sequence[FileToProve]) -> Iterator[_Window]:
    """Every byte of every file once, in order."""
    for file in files:
        waiting = deque(array for array in file.arrays if array.tensor.size)
        under_way: list[ArrayToMeasure] = []
        for stretch in file.stretches:
            for start in range(0, stretch.size, _WINDOW):
                size = min(_WINDOW, stretch.size - start)
                begin, end = stretch.offset + start, stretch.offset + start + size
                while waiting and waiting[0].tensor.offset < end:
                    under_way.append(waiting.popleft())
                yield _Window(file, stretch, start, size, tuple(_piece(array, begin, end) for array in under_way))
                under_way = [array for array in under_way if _end(array) > end]


def _piece(array: ArrayToMeasure, begin: int, end: int) -> _Piece:
    """What of a tensor lies between two offsets of its file."""
    first, last = max(array.tensor.offset, begin), min(_end(array), end)
    return _Piece(array, first - begin, last - begin, ends=last == _end(array))


def _end(array: ArrayToMeasure) -> int:
    return array.tensor.offset + array.tensor.size


def _fetch(store: Store, window: _Window, view: memoryview) -> memoryview | None:
    """Fill the view; None if the store has lost these bytes."""
    try:
        store.read_into(window.stretch.key, view, offset=window.start)
    except ObjectMissingError:
        return None
    return view


def _settled(buffer: bytearray, readers: Sequence[Future[None]]) -> bytearray:
    """The buffer, once everybody has read it. Raises what went wrong."""
    for reader in readers:
        reader.result()
    return buffer


def _found(file: FileToProve, array: ArrayToMeasure, digests: "_Digests", statistics: "_Statistics") -> Found:
    tensor, key = array.tensor, (file.artifact_id, array.position)
    if tensor.size:
        sha256, numbers = digests.found[key], statistics.found[key]
    else:
        sha256, numbers = hashlib.sha256().hexdigest(), Statistics(0, 0, 0, norm=0.0)
    measured = Measured(tensor.name, tensor.dtype, prod(tensor.shape), numbers)
    return Found(file.artifact_id, array.position, sha256, measured)


class _Segments:
    """Proves each segment, and keeps what is wrong by artifact."""

    def __init__(self) -> None:
        self.faults: dict[int, list[Fault]] = {}
        self._hash = hashlib.sha256()
        self._is_lost = False

    def take(self, window: _Window, fetched: Future[memoryview | None]) -> None:
        view, file, stretch = fetched.result(), window.file, window.stretch
        if not window.start:
            self._hash, self._is_lost = hashlib.sha256(), False
        if view is None:
            self._is_lost = True
        else:
            self._hash.update(view)
        if not window.ends_stretch or (not self._is_lost and self._hash.hexdigest() == stretch.sha256):
            return
        message = f"{file.path}: the bytes from offset {stretch.offset} are not {format_digest(stretch.sha256)}."
        if self._is_lost:
            message = f"{file.path}: the store has lost the bytes from offset {stretch.offset}."
        self.faults.setdefault(file.artifact_id, []).append(Fault(message, stretch.object_id))


class _Whole:
    """Proves each file of several segments."""

    def __init__(self) -> None:
        self._digests: dict[int, str] = {}
        self._hash = hashlib.sha256()

    def take(self, window: _Window, fetched: Future[memoryview | None]) -> None:
        view = fetched.result()
        if len(window.file.stretches) == 1:
            return
        if view is not None:  # if it is lost, a segment is at fault, and nobody asks for the whole
            self._hash.update(view)
        if window.ends_file:
            self._digests[window.file.artifact_id] = self._hash.hexdigest()
            self._hash = hashlib.sha256()

    def faults_of(self, file: FileToProve) -> list[Fault]:
        """What is wrong with a file whose segments are all right."""
        if len(file.stretches) == 1:
            found = file.stretches[0].sha256
        else:
            found = self._digests.get(file.artifact_id, hashlib.sha256().hexdigest())
        if found == file.sha256:
            return []
        return [Fault(f"{file.path}: the whole file is not {format_digest(file.sha256)}.")]


class _Digests:
    """The sha256 of each tensor, by artifact and position."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int], str] = {}
        self._hashes: dict[tuple[int, int], hashlib._Hash] = {}

    def take(self, window: _Window, fetched: Future[memoryview | None]) -> None:
        view = fetched.result()
        if view is None:
            return
        for piece in window.pieces:
            key, tensor, stretch = (window.file.artifact_id, piece.array.position), piece.array.tensor, window.stretch
            if (tensor.offset, tensor.size) == (stretch.offset, stretch.size):
                self.found[key] = stretch.sha256
                continue
            so_far = self._hashes.pop(key, None) or hashlib.sha256()
            so_far.update(view[piece.begin : piece.end])
            if piece.ends:
                self.found[key] = so_far.hexdigest()
            else:
                self._hashes[key] = so_far


class _Statistics:
    """The statistics of each tensor, by artifact and position."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int], Statistics] = {}
        self._meters: dict[tuple[int, int], Meter] = {}
        self._workspace = Workspace()

    def take(self, window: _Window, fetched: Future[memoryview | None]) -> None:
        view = fetched.result()
        if view is None:
            return
        for piece in window.pieces:
            key = (window.file.artifact_id, piece.array.position)
            meter = self._meters.pop(key, None) or Meter(piece.array.tensor.dtype, self._workspace)
            meter.add(view[piece.begin : piece.end])
            if piece.ends:
                self.found[key] = meter.statistics()
            else:
                self._meters[key] = meter
