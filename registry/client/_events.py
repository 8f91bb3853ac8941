"""The audit chains: reading them, waiting for more, and telling whether they are as they were written."""

import random
import time
from collections.abc import Iterable, Iterator
from typing import Final

from registry.client._api import PAGE, Api
from registry.domain import audit
from registry.domain.audit import Head, event_time
from registry.domain.errors import ConflictError, UnavailableError
from registry.wire import ChainChecked, ChainHead, EventOut, Page

_WAIT_S: Final = 25
_PAUSE_S: Final = 2.0


class ChainBrokenError(ConflictError):
    """The audit chain of a namespace does not verify: an event was altered, removed or put in."""

    code = "AUDIT_CHAIN_BROKEN"
    remedy = "Keep a copy of the database and find out who could write to it."


class Events:
    """The part of a client that is about what happened. Every method raises what the server answers."""

    _api: Api

    def events(
        self,
        namespace: str,
        *,
        limit: int | None = None,
        after: int = 0,
        action: str | None = None,
        follow: bool = False,
    ) -> Iterator[EventOut]:
        """The audit chain of a namespace, oldest first; `_system` for users and tokens.

        Only what is `after` a seq, and fits `action` (`promotion:apply`, `promotion:*`), if given. With `follow` it
        goes on for ever: each event once, in order, as it happens, also across restarts of the server.
        """
        query = {"namespace": namespace, "action": action}
        if not follow:
            yield from self._api.pages("/events", EventOut, limit=limit, after=after or None, **query)
            return
        has_answered, left = False, limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            try:
                page = self._api.get("/events", Page[EventOut], after=after, limit=size, wait=_WAIT_S, **query)
            except UnavailableError:
                if not has_answered:
                    raise
                time.sleep(_PAUSE_S * random.uniform(0.5, 1))  # noqa: S311 - jitter
                continue
            has_answered = True
            for event in page.items:
                yield event
                after = event.seq
            left = None if left is None else left - len(page.items)

    def chain_head(self, namespace: str) -> ChainHead:
        """Where the chain ends now. Kept elsewhere, it shows later that nothing was cut off."""
        return self._api.get("/events/head", ChainHead, namespace=namespace)

    def verify_chain(self, namespace: str, *, head: ChainHead | None = None) -> ChainHead:
        """Have the server verify a whole chain, and see that it still contains `head`; gives its end.

        Raises ChainBrokenError naming the first event that is missing, altered or out of place.
        """
        found = self._api.get("/events/verify", ChainChecked, namespace=namespace)
        while not found.complete:
            query = {"namespace": namespace, "after": found.seq, "hash": found.hash}
            found = self._api.get("/events/verify", ChainChecked, **query)
        broken = found.broken_at
        if broken is None and head is not None and head.seq:
            kept = next(self.events(namespace, after=head.seq - 1, limit=1), None)
            if kept is None:
                broken = found.seq + 1
            elif (kept.chain, kept.seq, kept.hash) != (head.chain, head.seq, head.hash):
                broken = head.seq
        if broken is not None:
            raise _broken(found.chain, broken)
        return ChainHead(chain=found.chain, seq=found.seq, hash=found.hash)


def verify_events(events: Iterable[EventOut], *, head: ChainHead | None = None) -> ChainHead:
    """Verify a whole chain that was read before, without any server, and that it contains `head`; gives its end.

    Raises ChainBrokenError.
    """
    reached = ChainHead(chain=head.chain if head else "", seq=0, hash=audit.GENESIS)

    def facts() -> Iterator[audit.Event]:
        nonlocal reached
        for each in events:
            reached = ChainHead(chain=each.chain, seq=each.seq, hash=each.hash)
            at = event_time(each.at)
            yield audit.Event(
                each.chain,
                each.seq,
                each.actor,
                each.action,
                each.subject,
                at,
                each.detail,
                each.previous_hash,
                each.hash,
            )

    saved = Head(head.chain, head.seq, head.hash) if head else None
    broken = audit.verify_until(facts(), saved) if saved else audit.verify(facts())
    if broken is not None:
        raise _broken(reached.chain, broken)
    return reached


def _broken(chain: str, seq: int) -> ChainBrokenError:
    return ChainBrokenError(f"The audit chain of {chain} is broken at event {seq}.", seq=seq)
