"""Webhooks: which events one asked for, what a message says, how it is signed, and when it is tried again.

Messages follow the Standard Webhooks specification: `webhook-id`, `webhook-timestamp` and `webhook-signature`, secrets
that begin with `whsec_`. A message's id is made from webhook and event, so it is the same however often it is sent.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from registry.domain.audit import Action, event_time
from registry.domain.errors import InvalidError
from registry.domain.names import shown

RETRIES: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800, 3600, 3 * 3600, 8 * 3600, 24 * 3600)
)
"""Waits after the first attempt, which is made at once, and after each that fails; then the message is dead."""
JITTER: Final = 0.2
"""A wait is this part longer or shorter, so that what failed together does not come back together."""

SECRET_BYTES: Final = 32
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - no secret, only how one begins
MAX_SECRETS: Final = 4
TEST_LANE: Final = "#test"
_REPLAYS: Final = "#replay"
_AFTER_MODEL = re.compile(r"[:@]")


class UnknownActionError(InvalidError):
    """A webhook asks for events of a kind that there is not."""

    code = "UNKNOWN_ACTION"
    remedy = "Name actions such as promotion:apply, or all of a subject such as version:*; none at all means all."


def check_actions(patterns: Sequence[str], /) -> list[str]:
    """Check that each names an action, or all of a subject. Raises UnknownActionError."""
    known = {str(action) for action in Action} | {f"{action.subject}:*" for action in Action}
    for pattern in patterns:
        if pattern not in known:
            raise UnknownActionError(f"{shown(pattern)} is no action.", action=pattern)
    return list(dict.fromkeys(patterns))


def wants(patterns: Sequence[str], action: str, /) -> bool:
    """Whether an event of this action was asked for; no pattern at all means all."""
    return not patterns or action in patterns or f"{action.partition(':')[0]}:*" in patterns


def lane_of(subject: str, /) -> str:
    """What an event's order is kept within: the model it is about, or its namespace."""
    return _AFTER_MODEL.split(subject, maxsplit=1)[0]


def replay_lane(lane: str, /) -> str:
    """The lane in which messages of `lane` are sent again: in order, but in nobody's way."""
    return lane if lane.endswith(_REPLAYS) else lane + _REPLAYS


def delay(failures: int, chance: float, /, *, schedule: Sequence[timedelta] = RETRIES) -> timedelta | None:
    """How long to wait after so many failures, None for no more; `chance` from 0 to 1 places it within the jitter."""
    if failures > len(schedule):
        return None
    return schedule[failures - 1] * (1 + JITTER * (2 * chance - 1))


def message_id(webhook: str, chain: str, seq: int, /) -> str:
    """The id of the message that tells this webhook of this event."""
    return "msg_" + hashlib.sha256(f"{webhook}/{chain}/{seq}".encode()).hexdigest()[:32]


def message(
    *, chain: str, seq: int, action: str, subject: str, actor: str, at: datetime, detail: Mapping[str, Any]
) -> bytes:
    """The body that tells of an event."""
    content = {
        "type": action.replace(":", "."),
        "timestamp": event_time(at),
        "data": {
            "chain": chain,
            "seq": seq,
            "action": action,
            "subject": subject,
            "actor": actor,
            "detail": dict(detail),
        },
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def new_secret(random_bytes: bytes, /) -> str:
    """Make a secret of 24 to 64 bytes of a cryptographic random source. Raises ValueError for other numbers."""
    if not 24 <= len(random_bytes) <= 64:
        raise ValueError("A webhook's secret is made of 24 to 64 random bytes.")
    return SECRET_PREFIX + base64.b64encode(random_bytes).decode()


def headers(message_id: str, body: bytes, /, *, secrets: Sequence[str], at: datetime) -> dict[str, str]:
    """The headers that prove a message, with one signature for each secret."""
    timestamp = str(int(at.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{_signature(secret, signed)}" for secret in secrets),
    }


def rotated(
    secrets: Sequence[Mapping[str, Any]], fresh: str, /, *, overlap: timedelta, now: datetime
) -> list[dict[str, Any]]:
    """Put a fresh secret before those that are valid still; the one before it ends after the overlap."""
    kept = []
    for each in secrets:
        ends = min(filter(None, (_end(each), now + overlap)))
        if ends > now:
            kept.append({"secret": each["secret"], "expires_at": ends.isoformat()})
    return [{"secret": fresh, "expires_at": None}, *kept[: MAX_SECRETS - 1]]


def valid_secrets(secrets: Sequence[Mapping[str, Any]], /, *, now: datetime) -> list[str]:
    """The secrets to sign with, the newest first."""
    ends = [(each["secret"], _end(each)) for each in secrets]
    return [secret for secret, end in ends if end is None or end > now]


def overlap_end(secrets: Sequence[Mapping[str, Any]], /, *, now: datetime) -> datetime | None:
    """When the last of the older secrets ends, if one is valid still."""
    return max((end for each in secrets if (end := _end(each)) is not None and end > now), default=None)


def _end(secret: Mapping[str, Any]) -> datetime | None:
    text = secret["expires_at"]
    return None if text is None else datetime.fromisoformat(text)


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
