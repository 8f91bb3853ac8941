"""Telling the registry what runs here, from a thread of its own: whatever becomes of that, following goes on."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from registry.client._api import Api, at, checked
from registry.domain.errors import ForbiddenError, NotFoundError, RegistryError
from registry.wire import ConsumerIn, ConsumerOut, ConsumerReport

_FIRST_LEASE_S: Final = 30.0
_GOODBYE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Said:
    number: int | None = None
    seq: int | None = None
    state: str = "pulling"
    detail: str = ""


class Reporter:
    """Says what was said last, at once and again before the lease ends. `with` it."""

    def __init__(
        self, api: Api, model: str, *, follows: str, name: str, known: str = "", learned: Callable[[str], None]
    ) -> None:
        """Nothing is sent yet. `known` is the id that an earlier one was given (`learned`): it is gone on with."""
        self._api, self._model, self._follows, self._name = api, model, follows, name[:200]
        self._said = _Said()
        self._news = threading.Condition()
        self._is_news, self._is_over = True, False
        self._thread = threading.Thread(target=self._run, name="registry-consumer", daemon=True)
        self._id, self._learned = known, learned
        self._lease_s = _FIRST_LEASE_S

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Sign off, unless the registry takes too long to hear it: then the lease ends by itself."""
        with self._news:
            self._is_over = True
            self._news.notify()
        self._thread.join(_GOODBYE_S)

    def say(self, number: int | None, seq: int | None, state: str, detail: str = "") -> None:
        """What runs here now. Returns at once."""
        with self._news:
            self._said, self._is_news = _Said(number, seq, state, detail[:1_000]), True
            self._news.notify()

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._is_news or self._is_over, timeout=self._lease_s / 3)
                said, self._is_news = self._said, False
                if self._is_over:
                    break
            try:
                self._send(said)
            except ForbiddenError:
                return  # the token is for other things
            except RegistryError:
                continue  # said again with the next news, or when a third of the lease is over
        if self._id:
            try:
                self._api.do("DELETE", at("consumers", self._id))
            except RegistryError:
                return

    def _send(self, said: _Said) -> None:
        facts = {"number": said.number, "seq": said.seq, "state": said.state, "detail": said.detail}
        if self._id:
            try:
                path = at("consumers", self._id)
                self._api.send("PUT", path, checked(ConsumerReport, **facts), ConsumerOut, repeatable=True)
            except NotFoundError:
                self._id = ""  # silent for too long
            else:
                return
        body = checked(ConsumerIn, name=self._name, follows=self._follows, **facts)
        made = self._api.send("POST", at("models", self._model, "consumers"), body, ConsumerOut)
        self._id, self._lease_s = made.id, float(made.lease_s)
        self._learned(made.id)
