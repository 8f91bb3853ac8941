import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from registry.domain import webhooks as rules

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SECRET, OTHER = (rules.new_secret(bytes([each]) * 32) for each in (1, 2))


def signed(body, *secrets):
    # The reference refuses what is older than five minutes.
    return rules.headers("msg_1", body, secrets=secrets, at=datetime.now(UTC))


def test_a_message_is_verified_by_the_reference_implementation():
    body = rules.message(
        chain="vision",
        seq=7,
        action="promotion:apply",
        subject="vision/yolo@production",
        actor="ana",
        at=NOW,
        detail={"to": 7, "message": "größer"},
    )
    told = Webhook(SECRET).verify(body, signed(body, SECRET))
    assert told == json.loads(body)
    assert told["type"] == "promotion.apply"
    assert told["data"] == {
        "chain": "vision",
        "seq": 7,
        "action": "promotion:apply",
        "subject": "vision/yolo@production",
        "actor": "ana",
        "detail": {"to": 7, "message": "größer"},
    }
    for wrong in (body + b" ", body.replace(b"7", b"8")):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(wrong, signed(body, SECRET))
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(body, signed(body, SECRET))


def test_with_two_secrets_either_verifies():
    headers = signed(b"{}", SECRET, OTHER)
    assert len(headers["webhook-signature"].split()) == 2
    for secret in (SECRET, OTHER):
        assert Webhook(secret).verify(b"{}", headers) == {}


def test_a_secret_is_32_random_bytes_after_its_prefix():
    assert base64.b64decode(SECRET.removeprefix("whsec_")) == bytes([1]) * 32
    with pytest.raises(ValueError, match="24 to 64"):
        rules.new_secret(b"short")


def test_secrets_overlap_and_end():
    first = rules.rotated([], SECRET, overlap=timedelta(0), now=NOW)
    assert rules.valid_secrets(first, now=NOW) == [SECRET]
    assert rules.overlap_end(first, now=NOW) is None
    both = rules.rotated(first, OTHER, overlap=timedelta(hours=1), now=NOW)
    assert rules.valid_secrets(both, now=NOW) == [OTHER, SECRET]
    assert rules.overlap_end(both, now=NOW) == NOW + timedelta(hours=1)
    assert rules.valid_secrets(both, now=NOW + timedelta(hours=1)) == [OTHER]
    assert rules.valid_secrets(rules.rotated(both, "new", overlap=timedelta(0), now=NOW), now=NOW) == ["new"]
    longer = rules.rotated(both, "new", overlap=timedelta(days=1), now=NOW)  # an end is never put off
    assert rules.valid_secrets(longer, now=NOW + timedelta(hours=2)) == ["new", OTHER]


def test_never_more_than_four_signatures():
    secrets: list[dict[str, object]] = []
    for number in range(9):
        secrets = rules.rotated(secrets, str(number), overlap=timedelta(days=1), now=NOW)
    assert rules.valid_secrets(secrets, now=NOW) == ["8", "7", "6", "5"]


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        ([], True),
        (["promotion:apply"], True),
        (["promotion:*"], True),
        (["version:*", "promotion:fail"], False),
        (["promotion:applyx"], False),
    ],
)
def test_an_event_is_wanted_by_action_or_subject_or_without_a_pattern(patterns, wanted):
    assert rules.wants(patterns, "promotion:apply") is wanted


@pytest.mark.parametrize("pattern", ["promotion", "promotion:", "*", "promotion:x", "x:*", "PROMOTION:apply", ""])
def test_a_pattern_that_no_event_can_match_is_refused(pattern):
    assert rules.check_actions(["promotion:*", "version:publish", "version:publish"]) == [
        "promotion:*",
        "version:publish",
    ]
    with pytest.raises(rules.UnknownActionError):
        rules.check_actions(["promotion:*", pattern])


@pytest.mark.parametrize(
    ("subject", "lane"),
    [
        ("vision/yolo", "vision/yolo"),
        ("vision/yolo:7", "vision/yolo"),
        ("vision/yolo@production", "vision/yolo"),
        ("vision", "vision"),
    ],
)
def test_order_is_kept_within_a_model_or_a_namespace(subject, lane):
    assert rules.lane_of(subject) == lane


def test_a_replay_is_in_a_lane_beside_and_stays_there():
    assert rules.replay_lane("vision/yolo") == rules.replay_lane(rules.replay_lane("vision/yolo")) != "vision/yolo"


def test_waits_grow_from_seconds_to_a_day_within_their_jitter_and_end():
    waits = [rules.delay(failures, 0.5) for failures in range(1, 11)]
    assert waits[:9] == [
        timedelta(seconds=5), timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10), timedelta(minutes=30),
        timedelta(hours=1), timedelta(hours=3), timedelta(hours=8), timedelta(hours=24),
    ]  # fmt: skip
    assert waits[9] is None
    assert rules.delay(1, 0.0) == timedelta(seconds=4)
    assert rules.delay(1, 1.0) == timedelta(seconds=6)


def test_a_message_s_id_is_that_of_webhook_and_event():
    one = rules.message_id("w", "vision", 7)
    assert one == rules.message_id("w", "vision", 7)
    assert len({one, rules.message_id("v", "vision", 7), rules.message_id("w", "vision", 8)}) == 3
    assert one.startswith("msg_")
    assert len(one) == 36
