import hashlib
import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.audit import GENESIS, Action, Event, Head, event_hash, event_time, verify, verify_until

AT = "2026-11-24T08:30:00.000000Z"


def event(previous: str, seq: int, **changes: Any) -> Event:
    content: dict[str, Any] = {
        "chain": "vision",
        "actor": "ada",
        "action": Action.VERSION_PUBLISH,
        "subject": f"vision/yolo11n:{seq}",
        "at": AT,
        "detail": {"size": seq},
    } | changes
    return Event(seq=seq, previous=previous, hash=event_hash(previous, seq, **content), **content)


def chain(length: int) -> list[Event]:
    events: list[Event] = []
    for seq in range(1, length + 1):
        events.append(event(events[-1].hash if events else GENESIS, seq))
    return events


def test_an_untouched_chain_has_no_bad_event() -> None:
    assert verify(chain(5)) is None
    assert verify([]) is None


def test_a_chain_can_be_verified_piece_by_piece() -> None:
    events = chain(5)
    assert verify(events[3:], previous=events[2].hash, first=4) is None


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "eve"}, {"action": "version:trash"}, {"subject": "vision/other:3"}, {"at": AT.replace("8", "9")},
        {"detail": {"size": 4}}, {"detail": {"size": math.nan}}, {"chain": "other"}, {"seq": 4}, {"previous": GENESIS},
        {"hash": GENESIS},
    ],
)  # fmt: skip
def test_an_altered_event_is_found(change: dict[str, Any]) -> None:
    events = chain(5)
    events[2] = replace(events[2], **change)
    assert verify(events) == 3


def test_an_altered_event_is_found_even_if_its_hash_was_made_to_fit() -> None:
    events = chain(5)
    events[2] = event(events[1].hash, 3, actor="eve")
    assert verify(events) == 4


@given(st.integers(0, 4))
def test_a_missing_event_is_found(index: int) -> None:
    events = chain(6)
    del events[index]
    assert verify(events) == index + 1


def test_swapped_events_are_found() -> None:
    events = chain(4)
    events[1], events[2] = events[2], events[1]
    assert verify(events) == 2


def test_the_order_of_details_and_a_trip_through_json_do_not_matter() -> None:
    detail = {"b": 1.0, "a": [1e20, None, "é"], "c": 0.1}
    again = json.loads(json.dumps(dict(reversed(detail.items()))))
    assert event(GENESIS, 1, detail=detail).hash == event(GENESIS, 1, detail=again).hash


def test_an_events_hash_can_be_recomputed_by_anyone() -> None:
    first = event(GENESIS, 1)
    content = (
        '{"action":"version:publish","actor":"ada","at":"2026-11-24T08:30:00.000000Z","chain":"vision",'
        f'"detail":{{"size":1}},"previous":"{GENESIS}","seq":1,"subject":"vision/yolo11n:1"}}'
    )
    assert first.hash == hashlib.sha256(content.encode()).hexdigest()


def test_a_time_is_written_one_way_whatever_its_zone() -> None:
    utc = datetime(2026, 11, 24, 8, 30, tzinfo=UTC)
    assert event_time(utc) == event_time(utc.astimezone(timezone(timedelta(hours=5)))) == AT


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        event_time(datetime(2026, 11, 24))  # noqa: DTZ001 - the point of the test


@pytest.mark.parametrize("action", Action)
def test_an_action_is_a_subject_and_a_verb(action: Action) -> None:
    assert f"{action.subject}:{action.verb}" == action
    assert action.name == action.upper().replace(":", "_")


def test_an_end_that_was_kept_must_still_be_there() -> None:
    events = chain(5)
    heads = [Head("vision", 0, GENESIS), *(Head("vision", each.seq, each.hash) for each in events)]
    assert {verify_until(events, head) for head in heads} == {None}
    assert verify_until(events[:3], heads[5]) == 4
    assert verify_until([], heads[5]) == 1
    assert verify_until(events, Head("vision", 3, GENESIS)) == 3
    assert verify_until(events, Head("audio", 3, events[2].hash)) == 3
    assert verify_until([*events[:2], *events[3:]], heads[5]) == 3
