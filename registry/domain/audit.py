"""The audit trail: what happened, chained so that a change of what was written shows.

Each namespace has a chain of its own, and `_system` has one for users, tokens and namespaces. Events are numbered
from 1 without gaps; each carries the hash of the one before. A chain proves that nothing in it was altered, removed or
moved; that nothing was cut off its end is for whoever remembers its last hash to see.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from registry.domain.manifest import NotCanonicalError, canonical_json

GENESIS: Final = "0" * 64  # the hash before the first event of a chain


class Action(StrEnum):
    """What can happen, as `subject:verb`."""

    MODEL_CREATE = "model:create"
    MODEL_UPDATE = "model:update"
    MODEL_TAG = "model:tag"
    MODEL_UNTAG = "model:untag"
    VERSION_PUBLISH = "version:publish"
    VERSION_UPDATE = "version:update"
    VERSION_COPY = "version:copy"
    VERSION_TAG = "version:tag"
    VERSION_UNTAG = "version:untag"
    VERSION_TRASH = "version:trash"
    VERSION_RESTORE = "version:restore"
    VERSION_PURGE = "version:purge"
    VERSION_VERIFY = "version:verify"
    VERSION_DAMAGE = "version:damage"
    METRIC_RECORD = "metric:record"
    ALIAS_POINT = "alias:point"
    ALIAS_REMOVE = "alias:remove"
    PROMOTION_REQUEST = "promotion:request"
    PROMOTION_APPLY = "promotion:apply"
    PROMOTION_FAIL = "promotion:fail"
    PROMOTION_APPROVE = "promotion:approve"
    PROMOTION_REJECT = "promotion:reject"
    PROMOTION_LAPSE = "promotion:lapse"
    PROMOTION_CANCEL = "promotion:cancel"
    PROMOTION_EXPIRE = "promotion:expire"
    POLICY_SET = "policy:set"
    STAGES_SET = "stages:set"
    WEBHOOK_CREATE = "webhook:create"
    WEBHOOK_UPDATE = "webhook:update"
    WEBHOOK_DELETE = "webhook:delete"
    WEBHOOK_TEST = "webhook:test"
    UPLOAD_EXPIRE = "upload:expire"
    NAMESPACE_CREATE = "namespace:create"
    NAMESPACE_GRANT = "namespace:grant"
    NAMESPACE_REVOKE = "namespace:revoke"
    USER_CREATE = "user:create"
    USER_DISABLE = "user:disable"
    USER_ENABLE = "user:enable"
    TOKEN_CREATE = "token:create"  # noqa: S105 - the name of an action
    TOKEN_REVOKE = "token:revoke"  # noqa: S105 - the name of an action

    @property
    def subject(self) -> str:
        """What kind of thing it happened to."""
        return self.value.partition(":")[0]

    @property
    def verb(self) -> str:
        """What happened to it."""
        return self.value.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it is stored: `previous` and `hash` are the links of the chain, in hex."""

    chain: str
    seq: int
    actor: str
    action: str
    subject: str
    at: str
    detail: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain, as somebody saw it: kept elsewhere, it shows later that nothing was cut off."""

    chain: str
    seq: int
    hash: str


def event_time(at: datetime, /) -> str:
    """Write a time as events carry it, in UTC to the microsecond. Raises ValueError if it has no time zone."""
    if at.tzinfo is None:
        raise ValueError("An event's time needs a time zone.")
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def event_hash(
    previous: str,
    seq: int,
    *,
    chain: str,
    actor: str,
    action: str,
    subject: str,
    at: str,
    detail: Mapping[str, Any],
) -> str:
    """Give the hash, in hex, of an event that follows the one whose hash is `previous`. `at` is from `event_time`.

    Raises NotCanonicalError if the detail holds what JSON cannot carry.
    """
    content = {
        "previous": previous,
        "chain": chain,
        "seq": seq,
        "actor": actor,
        "action": action,
        "subject": subject,
        "at": at,
        "detail": dict(detail),
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()


def verify(events: Iterable[Event], /, *, previous: str = GENESIS, first: int = 1) -> int | None:
    """Give the number of the first event that is missing, altered or out of place; None if there is none.

    `events` are consecutive and of one chain. To go on with a chain that was verified before, give the hash of its last
    event as `previous` and the number after it as `first`.
    """
    chain: str | None = None
    for seq, event in enumerate(events, start=first):
        chain = chain or event.chain
        if (event.chain, event.seq, event.previous) != (chain, seq, previous) or event.hash != _hash_of(event):
            return seq
        previous = event.hash
    return None


def verify_until(events: Iterable[Event], head: Head, /) -> int | None:
    """As `verify`, of a whole chain that ended at `head` when that was saved: more may follow, nothing be missing."""
    saved: Event | None = None
    last = 0

    def noting() -> Iterator[Event]:
        nonlocal saved, last
        for event in events:
            saved, last = (event if event.seq == head.seq else saved), event.seq
            yield event

    broken = verify(noting())
    if broken is not None or head.seq == 0:
        return broken
    if saved is None:
        return last + 1
    return None if (saved.chain, saved.hash) == (head.chain, head.hash) else head.seq


def _hash_of(event: Event) -> str | None:
    try:
        return event_hash(
            event.previous,
            event.seq,
            chain=event.chain,
            actor=event.actor,
            action=event.action,
            subject=event.subject,
            at=event.at,
            detail=event.detail,
        )
    except (NotCanonicalError, TypeError, ValueError):
        return None  # no such event was ever written
