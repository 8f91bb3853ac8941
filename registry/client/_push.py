"""A push: hash, ask what is missing, send that, report it, commit; each step begins before the one before it ends.

Nothing is kept between attempts. Whoever repeats a push, after whatever end the last one had, is told what is there
already and sends the rest.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from registry.client._api import LONG_TIMEOUT, Api, at
from registry.client._hashing import HashedFile, Hashing, Piece, hashing
from registry.client._sources import Source
from registry.client._types import Progress, Transfer, Version
from registry.client._upload import Put, upload
from registry.domain.digest import format_digest
from registry.domain.errors import ConflictError, RegistryError
from registry.wire import (
    SEGMENT_BATCH,
    ArtifactIn,
    CommitIn,
    FinishedIn,
    FinishedOut,
    SegmentAnswer,
    SegmentAnswers,
    SegmentIn,
    SegmentsIn,
    UploadIn,
    UploadOut,
)

# The first questions are small, so that sending begins while the rest is hashed.
_FIRST_BATCH = 32
# What the server has not been told of, a killed push sends again.
_REPORT_COUNT, _REPORT_SECONDS = 256, 2.0
_ROUNDS = 4
# The upload as begun cannot be finished; one begun anew can.
_START_OVER = frozenset({"UPLOAD_DISTURBED", "UPLOAD_EXPIRED", "UPLOAD_NOT_FOUND", "SEGMENTS_MISSING"})


class UploadDisturbedError(ConflictError):
    """Other pushes of the same segments kept getting in the way of this one."""

    code = "UPLOAD_DISTURBED"
    remedy = "Repeat the push: it resumes."


def push(
    api: Api,
    model: str,
    files: Sequence[Source],
    commit: Callable[[list[ArtifactIn]], CommitIn],
    *,
    progress: Progress | None,
) -> Version:
    """Publish the files. Raises what the server answers, and the errors of hashing and of `upload`."""
    work = _Push(api, model, files, progress)
    with hashing([(file.path, file.spans) for file in files], progress=work.hashed) as hashes:
        for left in reversed(range(_ROUNDS)):
            try:
                return work.attempt(hashes, commit)
            except RegistryError as error:
                if not left or error.code not in _START_OVER:
                    raise
    raise AssertionError  # the last round returned or raised


class _Push:
    def __init__(self, api: Api, model: str, files: Sequence[Source], progress: Progress | None) -> None:
        self._api = api
        self._model = model
        self._files = files
        self._progress = progress
        self._total = sum(file.size for file in files)
        self._known: list[tuple[int, Piece]] = []
        self._upload = ""
        self._unreported: list[str] = []
        self._reported_at = 0.0
        self._hashed = self._to_send = self._settled = self._moved = 0

    def attempt(self, hashes: Hashing, commit: Callable[[list[ArtifactIn]], CommitIn]) -> Version:
        """One upload from its beginning to its commit; what earlier attempts have stored is found there."""
        self._upload, self._unreported, self._reported_at = "", [], time.monotonic()
        self._to_send = self._settled = 0
        try:
            report = upload(self._missing(hashes), refresh=self._refresh, done=self._done, progress=self._sent)
        except BaseException:
            self._moved += self._settled
            raise
        self._moved += report.sent_bytes
        self._report()
        body = commit([self._artifact(*each) for each in zip(self._files, hashes.files(), strict=True)])
        path = at("uploads", self._upload, "commit")
        version = self._api.send("POST", path, body, Version, timeout=LONG_TIMEOUT)
        return version.model_copy(update={"transfer": Transfer(self._total, self._moved)})

    def hashed(self, size: int) -> None:
        """Take note of bytes that were hashed."""
        self._hashed += size
        if self._progress is not None:
            self._progress("hash", self._hashed, self._total)

    def _missing(self, hashes: Hashing) -> Iterator[Put]:
        asked: set[str] = set()
        batch: list[tuple[int, Piece]] = []
        size = _FIRST_BATCH
        for index, piece in chain(list(self._known), self._news(hashes)):
            if piece.sha256 in asked:
                continue
            asked.add(piece.sha256)
            batch.append((index, piece))
            if len(batch) >= size:
                yield from self._ask(batch)
                batch, size = [], min(SEGMENT_BATCH, size * 2)
        if batch or not self._upload:
            yield from self._ask(batch)

    def _news(self, hashes: Hashing) -> Iterator[tuple[int, Piece]]:
        for index, piece in hashes:
            self._known.append((index, piece))
            yield index, piece

    def _ask(self, batch: Sequence[tuple[int, Piece]]) -> Iterator[Put]:
        segments = [SegmentIn(digest=format_digest(piece.sha256), size=piece.size) for _, piece in batch]
        for (index, piece), answer in zip(batch, self._answers(segments), strict=True):
            put = self._put(index, piece, answer)
            if put is not None:
                self._to_send += piece.size
                yield put

    def _answers(self, segments: list[SegmentIn]) -> list[SegmentAnswer]:
        if not self._upload:
            begin = UploadIn(model=self._model, segments=segments)
            begun = self._api.send("POST", "/uploads", begin, UploadOut, repeatable=True)
            self._upload = begun.id
            return begun.items
        path = at("uploads", self._upload, "segments")
        return self._api.send("POST", path, SegmentsIn(segments=segments), SegmentAnswers, repeatable=True).items

    def _put(self, index: int, piece: Piece, answer: SegmentAnswer) -> Put | None:
        if answer.status == "have" or answer.url is None:
            return None
        return Put(self._files[index].path, piece.offset, piece.size, piece.sha256, answer.url, answer.headers)

    def _refresh(self, stale: Put) -> Put:
        """Sign anew. Meanwhile another push may have brought the segment: then the question is asked from the start."""
        index = next(number for number, file in enumerate(self._files) if file.path == stale.path)
        answers = self._answers([SegmentIn(digest=format_digest(stale.sha256), size=stale.size)])
        put = self._put(index, Piece(stale.offset, stale.size, stale.sha256), answers[0])
        if put is None:
            raise UploadDisturbedError(f"{stale.path} is being pushed by another process at the same time.")
        return put

    def _sent(self, size: int) -> None:
        self._settled += size
        if self._progress is not None:
            self._progress("send", self._settled, self._to_send)

    def _done(self, put: Put) -> None:
        self._unreported.append(format_digest(put.sha256))
        is_due = time.monotonic() - self._reported_at > _REPORT_SECONDS
        if is_due or len(self._unreported) >= _REPORT_COUNT:
            self._report()

    def _report(self) -> None:
        while self._unreported:
            batch, self._unreported = self._unreported[:SEGMENT_BATCH], self._unreported[SEGMENT_BATCH:]
            path = at("uploads", self._upload, "segments")
            self._api.send("PATCH", path, FinishedIn(digests=batch), FinishedOut, repeatable=True, timeout=LONG_TIMEOUT)
        self._reported_at = time.monotonic()

    def _artifact(self, source: Source, file: HashedFile) -> ArtifactIn:
        segments = [SegmentIn(digest=format_digest(piece.sha256), size=piece.size) for piece in file.pieces]
        return ArtifactIn(path=source.artifact, size=file.size, digest=format_digest(file.sha256), segments=segments)
