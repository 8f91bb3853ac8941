"""Segments from files to S3 by presigned PUTs, in parallel; over plain HTTP no byte passes through this process.

The engine knows nothing of the registry's API: what to send where comes in as `Put`s, and what became of it goes out
by callbacks, which run in the calling thread.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from registry.client._hashing import FileChangedError, Piece, UnreadableFileError, is_unchanged
from registry.client._http import Answer, FileRange, NoRoomError, StorageRefusedError, place
from registry.client._workers import Again, Crew, Lane, persist

THREADS = 4
# Jobs handed out ahead of the workers, so that they have something to do while the next URLs are asked for.
_AHEAD = 64
_REFRESHES = 3

_STORED = frozenset({200, 201, 204})
_PRESENT = 412
_UNSIGNED = frozenset({401, 403})
_BUSY = frozenset({408, 409, 425, 429})
_FULL = 507
_SERVER_ERROR = 500
_EXPIRED_CODES = frozenset({"ExpiredToken", "RequestExpired", "RequestTimeTooSkewed", "TokenRefreshRequired"})
_DAMAGE_CODES = frozenset(
    {"BadDigest", "InvalidDigest", "ChecksumMismatch", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
)
_FULL_CODES = frozenset({"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"})


@dataclass(frozen=True, slots=True)
class Put:
    """One segment to send: where its bytes lie, what they hash to, and the request that was signed for them."""

    path: Path
    offset: int
    size: int
    sha256: str
    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class UploadReport:
    """What an upload moved. `present` segments were in the store already when their turn came."""

    sent: int
    sent_bytes: int
    present: int


class _Outcome(Enum):
    SENT = auto()
    PRESENT = auto()
    STALE = auto()


def upload(
    puts: Iterable[Put],
    *,
    refresh: Callable[[Put], Put],
    threads: int = THREADS,
    progress: Callable[[int], None] | None = None,
    done: Callable[[Put], None] | None = None,
) -> UploadReport:
    """Send every segment. `puts` is consumed as the uploads proceed, so it may ask for signed URLs as it goes.

    `refresh` signs a segment anew when its URL has expired; `done` and `progress` are told after each segment.
    The first failure stops the rest and is raised: FileChangedError, UnreadableFileError, NoRoomError,
    StorageRefusedError, StorageUnreachableError.
    """
    count: Counter[_Outcome] = Counter()
    refreshed: Counter[tuple[Path, int]] = Counter()
    sent_bytes = 0
    with Crew(_put, threads=threads) as crew:

        def settle() -> None:
            nonlocal sent_bytes
            put, outcome, answer = crew.result()
            if outcome is _Outcome.STALE:
                refreshed[put.path, put.offset] += 1
                if refreshed[put.path, put.offset] > _REFRESHES:
                    raise _refused(put, answer)
                crew.submit(refresh(put))
                return
            count[outcome] += 1
            sent_bytes += put.size if outcome is _Outcome.SENT else 0
            if progress is not None:
                progress(put.size)
            if done is not None:
                done(put)

        for put in puts:
            crew.submit(put)
            while crew.unfinished >= _AHEAD or crew.ready():
                settle()
        while crew.unfinished:
            settle()
    return UploadReport(count[_Outcome.SENT], sent_bytes, count[_Outcome.PRESENT])


def _put(put: Put, lane: Lane) -> tuple[Put, _Outcome, Answer]:
    try:
        descriptor = os.open(put.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as failure:
        raise UnreadableFileError(f"{put.path} cannot be read: {failure.strerror}.", path=str(put.path)) from failure
    try:
        body = FileRange(descriptor, put.offset, put.size)
        return persist(lane, put.url, lambda: _try(put, body, lane))
    finally:
        os.close(descriptor)


def _try(put: Put, body: FileRange, lane: Lane) -> tuple[Put, _Outcome, Answer] | Again:
    try:
        response = lane.connections.request("PUT", put.url, put.headers, body)
    except EOFError:
        raise _changed(put) from None
    answer = lane.connections.finish(response)
    status, code = answer.status, answer.code
    if status in _STORED:
        return put, _Outcome.SENT, answer
    if status == _PRESENT:
        return put, _Outcome.PRESENT, answer
    if code in _DAMAGE_CODES:
        if not is_unchanged(put.path, Piece(put.offset, put.size, put.sha256), lane):
            raise _changed(put)
        return Again(str(answer))
    if status == _FULL or code in _FULL_CODES:
        raise NoRoomError(f"The store has no room for {put.size:,} bytes of {put.path}.", path=str(put.path))
    if status in _UNSIGNED or code in _EXPIRED_CODES:
        return put, _Outcome.STALE, answer
    if status >= _SERVER_ERROR or status in _BUSY or code == "RequestTimeout":
        return Again(str(answer), answer.retry_after)
    raise _refused(put, answer)


def _changed(put: Put) -> FileChangedError:
    return FileChangedError(f"{put.path} changed while it was being uploaded.", path=str(put.path))


def _refused(put: Put, answer: Answer) -> StorageRefusedError:
    refused = f"{place(put.url)} refused the bytes of {put.path} from {put.offset:,} on with {answer}."
    return StorageRefusedError(refused, status=answer.status, s3_code=answer.code)
