"""Following: what a reference means, each time that changes, here and held in a directory.

A stage is asked every few seconds whether it is still at the same entry of its history, which costs an answer without a
body. Changes that nobody looked at in time are passed over, unless every one was asked for.
"""

import random
import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from registry.client import _command
from registry.client._api import Api, at
from registry.client._errors import InvalidArgumentError, NotARegistryError, ServerMovedError
from registry.client._held import HeldDirectory, Mark
from registry.client._reporting import Reporter
from registry.client._types import Version
from registry.domain.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    RegistryError,
    UnauthenticatedError,
    UnavailableError,
)
from registry.domain.names import BEST, parse_model
from registry.domain.references import parse_reference
from registry.wire import ConsumerOut, ResolveOut, StageHolder

if TYPE_CHECKING:
    from registry.client._client import Client

Say = Callable[[str], None]

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_LOOK_S: Final = 0.1


class EveryNeedsStageError(InvalidError):
    """Every change was asked for of a reference that has no history."""

    code = "EVERY_NEEDS_STAGE"
    remedy = "Follow a stage, such as NAME@production; other references only tell what they mean now."


@dataclass(frozen=True, slots=True)
class Change:
    """What the reference means from now on. `seq` numbers the history of a stage; elsewhere it is the version."""

    ref: str
    seq: int
    version: Version
    directory: Path | None


@dataclass(frozen=True, slots=True)
class _Seen:
    seq: int
    number: int


class Following:
    """The part of a client that follows references. Every method raises what the server answers."""

    _api: Api

    def follow(
        self,
        ref: str,
        directory: str | Path | None = None,
        *,
        every: bool = False,
        poll: float = 2.0,
        name: str | None = None,
        log: Say | None = None,
    ) -> Iterator[Version]:
        """The version that the reference means, and then each one that it comes to mean, for ever.

        With a `directory`, that is a link which always leads to one whole version: the one given is in it, and the one
        before is removed when the next one is asked for. Of changes that came faster than they were taken only the last
        is given, unless `every` is set (of a stage). While the registry cannot be reached it goes on trying, and tells
        `log`. The registry shows that this process (`name`) runs the version.
        Raises AlreadyFollowedError, DirectoryTakenError, EveryNeedsStageError, and refusals that no waiting cures.
        """
        follower = self.follower(ref, directory, every=every, poll=poll, name=name, log=log)
        for change in follower.changes():
            yield change.version

    def follower(
        self, ref: str, directory: str | Path | None = None, *, is_resumed: bool = False, **options: Any
    ) -> "Follower":
        """What `follow` is made of, for those who run something at each change that must not run twice.

        With `is_resumed` it goes on where the last one in this directory was, and gives nothing that was dealt with.
        """
        return Follower(cast("Client", self), self._api, ref, directory, is_resumed=is_resumed, **options)

    def consumers(self, name: str) -> Iterator[ConsumerOut]:
        """Who follows a reference of the model, and what each runs."""
        return self._api.pages(at("models", parse_model(name), "consumers"), ConsumerOut)


class Follower:
    """One that follows."""

    def __init__(
        self,
        client: "Client",
        api: Api,
        ref: str,
        directory: str | Path | None = None,
        *,
        every: bool = False,
        poll: float = 2.0,
        name: str | None = None,
        log: Say | None = None,
        is_resumed: bool = False,
    ) -> None:
        """Nothing is asked yet. Raises InvalidReferenceError, InvalidArgumentError or EveryNeedsStageError."""
        reference = parse_reference(ref)
        if not poll > 0:
            raise InvalidArgumentError("poll must be above 0.")
        self.ref, self.model = str(reference), str(reference.model)
        self._client, self._api, self._every, self._poll = client, api, every, poll
        self._pointer = reference.pointer if reference.pointer != BEST else None
        if every and self._pointer is None:
            raise EveryNeedsStageError(f"{ref} has no history.")
        self._held = HeldDirectory(Path(directory)) if directory is not None else None
        self._name = name or f"{socket.gethostname()}:{self._held.path if self._held else self.ref}"
        self._say: Say = log or (lambda _: None)
        self._is_resumed = is_resumed
        self._reporter = Reporter(
            api,
            self.model,
            follows=self.ref,
            name=self._name,
            known=self._held.consumer(self.ref) if self._held else "",
            learned=self._keep_consumer,
        )
        self._etag = ""
        self._latest: _Seen | None = None
        self._has_looked = False
        self._done: int | None = None

    @property
    def directory(self) -> Path | None:
        """The directory that is held, without links on the way."""
        return self._held.path if self._held else None

    def changes(self) -> Generator[Change]:
        """Each change, for ever; it is dealt with when the next one is asked for, if `finish` was not called before."""
        with ExitStack() as stack:
            if self._held is not None:
                stack.enter_context(self._held)
                self._resume(self._held)
            stack.enter_context(self._reporter)
            failures = 0
            while True:
                try:
                    change = self._next()
                except RegistryError as error:
                    failures += 1
                    self._endure(error, failures)
                    continue
                if failures and self._done is not None and self._held is not None:
                    self._reporter.say(self._held.number, self._done, "running")
                failures = 0
                if change is None:
                    time.sleep(self._poll)
                    continue
                yield change
                self.finish(change)

    def note(self, change: Change, process: str) -> None:
        """A command for the change is about to begin, as this process."""
        if self._held is not None:
            number = change.version.number
            self._held.write(Mark(self.ref, change.seq, number, "running", process))

    def finish(self, change: Change, failure: str = "") -> None:
        """The change was dealt with, and `failure` says if that went wrong. Repeating it changes nothing."""
        if self._done == change.seq:
            return
        number = change.version.number
        if self._held is not None:
            self._held.write(Mark(self.ref, change.seq, number, "done"))
            self._held.tidy()
        self._done = change.seq
        self._reporter.say(number, change.seq, "failed" if failure else "running", failure)

    def _keep_consumer(self, consumer_id: str) -> None:
        if self._held is not None:
            self._held.write_consumer(consumer_id, self.ref)

    def _resume(self, held: HeldDirectory) -> None:
        mark = held.mark()
        if mark is None or mark.follows != self.ref:
            return
        if mark.process is not None and _command.is_running(mark.process):
            self._say("the command of an earlier follower still runs; waiting for its end")
            while _command.is_running(mark.process):
                time.sleep(_LOOK_S)
        if not self._is_resumed:
            return
        if mark.state == "done":
            self._done = mark.seq
        elif self._every:
            self._done = mark.seq - 1

    def _next(self) -> Change | None:
        self._look()
        seen = self._latest
        if seen is None or seen.seq == self._done:
            return None
        if self._every and self._done is not None:
            seen = self._first_after(self._done)
        return self._bring(seen) if seen is not None else None

    def _look(self) -> None:
        """Ask what the reference means now. Nothing comes of it while a stage is empty."""
        if self._pointer is not None:
            try:
                path = at("models", self.model, "stages", self._pointer)
                holder, etag = self._api.get_if_changed(path, StageHolder, self._etag)
            except NotFoundError as error:
                if error.code != "STAGE_NOT_FOUND" or self._has_looked:
                    raise
                if self._every:
                    raise EveryNeedsStageError(f"{self.ref} is no stage and has no history.") from None
                self._pointer = None
            else:
                self._etag, self._has_looked = etag, True
                if holder is not None:
                    self._hold(holder)
                return
        found, etag = self._api.get_if_changed("/resolve", ResolveOut, self._etag, ref=self.ref)
        self._etag, self._has_looked = etag, True
        if found is not None:
            self._latest = _Seen(found.number, found.number)

    def _hold(self, holder: StageHolder) -> None:
        if holder.version is None:
            kept = f"; {self.directory} stays as it is" if self.directory else ""
            self._say(f"nothing holds {self.ref}{kept}")
            self._latest = None
            return
        self._latest = _Seen(holder.seq, holder.version)

    def _first_after(self, seq: int) -> _Seen | None:
        """The first change of the stage that has not been dealt with."""
        history = self._client.history(self.model, self._pointer or "")
        missed = [each for each in takewhile(lambda each: each.seq > seq, history) if each.version is not None]
        return _Seen(missed[-1].seq, missed[-1].version or 0) if missed else None

    def _bring(self, seen: _Seen) -> Change | None:
        ref = f"{self.model}:{seen.number}"
        try:
            version = self._client.version(ref)
            if self._held is not None and self._held.number != seen.number:
                self._reporter.say(self._held.number, seen.seq, "pulling")
                self._client.pull(ref, self._held.prepare(seen.number), verify_file=True)
                self._held.switch(seen.number)
        except (GoneError, ConflictError) as error:
            if not self._every or self._latest == seen:
                raise
            self._say(f"passing over {ref}: {error}")
            self._done = seen.seq
            return None
        if self._held is not None:
            self._held.write(Mark(self.ref, seen.seq, seen.number, "running"))
        self._reporter.say(seen.number, seen.seq, "running")
        return Change(self.ref, seen.seq, version, self.directory)

    def _endure(self, error: RegistryError, failures: int) -> None:
        """Wait before the next attempt, longer each time. Raises the error if no attempt would help."""
        is_outage = isinstance(error, UnavailableError | NotARegistryError)
        is_refusal = isinstance(error, UnauthenticatedError | ForbiddenError | InvalidError | ServerMovedError)
        if is_refusal or not (is_outage or self._has_looked):
            raise error
        wait = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
        wait *= random.uniform(0.5, 1)  # noqa: S311 - jitter
        self._say(f"{error} Trying again in {wait:.0f} s. [{error.code}]")
        self._etag = ""
        if not is_outage:
            self._reporter.say(self._held.number if self._held else None, self._done, "failed", str(error))
        time.sleep(wait)
