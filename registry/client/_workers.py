"""Threads that do the waiting of a transfer, while every callback runs in the thread that asked for it.

The asking thread hands out jobs and takes results; nothing else is shared. A failure, or Ctrl-C, wakes all of them.
"""

import http.client
import random
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

from registry.client._http import Connections, StorageUnreachableError, place

J = TypeVar("J")
R = TypeVar("R")

ATTEMPTS = 8
_FIRST_WAIT, _LONGEST_WAIT, _JOIN_LIMIT = 0.2, 10.0, 15.0


class CancelledError(Exception):
    """Inside a worker: the others have stopped, so should this one. Never leaves this package."""


class Lane:
    """What one worker owns: its connections, its buffer, and the knowledge that all should stop."""

    def __init__(self, stop: threading.Event) -> None:
        """Share only the event."""
        self._stop = stop
        self.connections = Connections()
        self.buffer = self.connections.buffer

    def check(self) -> None:
        """Raise CancelledError once the transfer has failed elsewhere."""
        if self._stop.is_set():
            raise CancelledError

    def back_off(self, attempt: int, at_least: float = 0.0) -> None:
        """Wait before trying again: exponentially, with jitter, as long as the store asks for (within a bound)."""
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
        wait = max(min(at_least, 3 * _LONGEST_WAIT), longest * random.uniform(0.5, 1))  # noqa: S311 - not a secret
        if self._stop.wait(wait):
            raise CancelledError


@dataclass(frozen=True, slots=True)
class Again:
    """A step that did not work and may work later. `wait` is what the store asked for, in seconds."""

    reason: str
    wait: float = 0.0


def persist(lane: Lane, url: str, step: Callable[[], R | Again]) -> R:
    """Take a step of network work until it works. Raises StorageUnreachableError when patience has run out.

    Every OSError of the step is taken for the network's: it reports trouble with files by other errors.
    """
    reason = ""
    for attempt in range(ATTEMPTS):
        lane.check()
        try:
            outcome = step()
        except ssl.SSLCertVerificationError as failure:
            raise StorageUnreachableError(
                f"The certificate of {place(url)} does not verify: {failure.verify_message}."
            ) from None
        except (OSError, http.client.HTTPException) as failure:
            lane.connections.drop()
            outcome = Again(f"{type(failure).__name__} {failure}".rstrip())
        if not isinstance(outcome, Again):
            return outcome
        reason = outcome.reason
        if attempt < ATTEMPTS - 1:
            lane.back_off(attempt, outcome.wait)
    raise StorageUnreachableError(f"{place(url)} gave no good answer in {ATTEMPTS} attempts; the last was {reason}.")


class Crew(Generic[J, R]):
    """At most `threads` workers, started as jobs arrive. Leaving the `with` block stops them, whatever they do."""

    def __init__(self, work: Callable[[J, Lane], R], *, threads: int) -> None:
        """Remember what to do with a job; nothing starts yet."""
        self._work = work
        self._threads = max(1, threads)
        self._jobs: SimpleQueue[J | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[R | None, BaseException | None]] = SimpleQueue()
        self._stop = threading.Event()
        self._lanes: list[Lane] = []
        self._workers: list[threading.Thread] = []
        self.unfinished = 0

    def submit(self, job: J) -> None:
        """Hand out one job. Never waits."""
        self._jobs.put(job)
        self.unfinished += 1
        if self.unfinished > len(self._workers) < self._threads:
            lane = Lane(self._stop)
            worker = threading.Thread(target=self._run, args=(lane,), name="registry-transfer", daemon=True)
            self._lanes.append(lane)
            self._workers.append(worker)
            worker.start()

    def result(self) -> R:
        """The next finished job's result, in order of finishing. Raises what the job raised."""
        result, failure = self._results.get()
        self.unfinished -= 1
        if failure is not None:
            raise failure
        return result  # type: ignore[return-value]  # None only beside a failure, or if R itself allows it

    def ready(self) -> bool:
        """Whether `result` would return at once."""
        return not self._results.empty()

    def __enter__(self) -> Self:
        """Nothing to prepare."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop: at once if something failed, else as soon as each worker sees that there is nothing left."""
        if kind is not None or self.unfinished:
            self._stop.set()
            for lane in self._lanes:
                lane.connections.abort()
        for _ in self._workers:
            self._jobs.put(None)
        for worker in self._workers:
            worker.join(_JOIN_LIMIT)
        for lane, worker in zip(self._lanes, self._workers, strict=True):
            if not worker.is_alive():
                lane.connections.drop()

    def _run(self, lane: Lane) -> None:
        while (job := self._jobs.get()) is not None and not self._stop.is_set():
            try:
                self._results.put((self._work(job, lane), None))
            except BaseException as failure:  # noqa: BLE001 - carried to the asking thread, which raises it
                self._results.put((None, failure))
                self._stop.set()  # only now: the first failure is told before any that it causes
