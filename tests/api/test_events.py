from datetime import datetime

import pytest

from registry.domain.access import Scope
from registry.domain.audit import Event, event_time, verify
from tests.support.world import code


def test_acts_are_read_oldest_first_page_by_page(http, make_token):
    for name in ("ana", "bea", "cleo"):
        make_token(name, "reader", "vision")
    found = http.items("/events?namespace=VISION", limit=1)
    assert [(event["seq"], event["action"], event["detail"]["user"]) for event in found] == [
        (1, "namespace:grant", "ana"),
        (2, "namespace:grant", "bea"),
        (3, "namespace:grant", "cleo"),
    ]
    assert {event["chain"] for event in found} == {"vision"}
    assert http.get("/events").json["items"] == []  # of `default`


def test_the_chain_can_be_verified_from_what_the_api_answers(http, make_token):
    make_token("ana", "reader")
    http.post("/namespaces", json={"name": "vision"})
    events = [
        Event(
            row["chain"],
            row["seq"],
            row["actor"],
            row["action"],
            row["subject"],
            event_time(datetime.fromisoformat(row["at"])),
            row["detail"],
            row["previous_hash"],
            row["hash"],
        )
        for row in http.items("/events?namespace=_system", limit=2)
    ]
    assert len(events) >= 6
    assert verify(events) is None


def test_events_are_for_those_with_a_role_and_the_system_chain_for_administrators(http, make_token):
    make_token("bea", "reader", "audio")
    ana = make_token("ana", "admin", "vision")
    assert http.get("/events?namespace=vision", token=ana).status_code == 200
    assert code(http.get("/events?namespace=audio", token=ana)) == (404, "NAMESPACE_NOT_FOUND")
    assert code(http.get("/events", token=ana)) == (404, "NAMESPACE_NOT_FOUND")
    assert code(http.get("/events?namespace=_system", token=ana)) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize("scope", [Scope(models="vision/yolo"), Scope(models="vision/*"), Scope(("model:read",))])
def test_a_token_for_some_models_does_not_read_a_whole_chain(http, make_token, scope):
    secret = make_token("ana", "admin", "vision", scope=scope)
    root = make_token("root", is_admin=True, scope=scope)
    assert code(http.get("/events?namespace=vision", token=secret)) == (403, "PERMISSION_DENIED")
    assert code(http.get("/events?namespace=vision", token=root)) == (403, "PERMISSION_DENIED")
    assert code(http.get("/events?namespace=_system", token=root)) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize("namespace", ["nothing", "", "_System", "a%00b", "x" * 300])
def test_a_namespace_that_is_not_there_is_said_so(http, namespace):
    assert code(http.get(f"/events?namespace={namespace}")) == (404, "NAMESPACE_NOT_FOUND")


def test_a_cursor_that_was_not_handed_out_is_refused(http):
    assert code(http.get("/events?cursor=WyJhIl0=")) == (422, "INVALID_CURSOR")
