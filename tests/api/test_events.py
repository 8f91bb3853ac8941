import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from registry.api import events
from registry.domain.access import Scope
from registry.domain.audit import Action, Event, event_time, verify
from registry.services import chains
from registry.services.audit import record
from tests.support.world import ADMIN_SECRET, T0, code


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
    found = [
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
    assert len(found) >= 6
    assert verify(found) is None


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


def test_whoever_saw_a_seq_asks_for_what_is_after_it(http, make_token):
    for name in ("ana", "bea", "cleo"):
        make_token(name, "reader", "vision")
    found = http.get("/events?namespace=vision&after=1").json["items"]
    assert [event["seq"] for event in found] == [2, 3]
    assert http.get("/events?namespace=vision&after=99").json == {"items": [], "next": None}
    assert code(http.get("/events?namespace=vision&after=-1")) == (422, "INVALID_PARAMETER")


def test_events_can_be_of_one_action_or_of_a_group(http, make_token):
    make_token("ana", "reader", "vision")
    http.post("/models", json={"name": "vision/yolo"})
    http.put("/models/vision/yolo/tags/task", json={"value": "detect"})

    def actions(wanted):
        return [event["action"] for event in http.items(f"/events?namespace=vision&action={wanted}", limit=1)]

    assert actions("model:create") == ["model:create"]
    assert actions("model:*") == ["model:create", "model:tag"]
    assert actions("namespace:*") == ["namespace:grant"]
    assert actions("promotion:*") == []
    for wrong in ("model", "*", "model:%25", "MODEL:create", "model:*x"):
        assert code(http.get(f"/events?namespace=vision&action={wrong}")) == (422, "INVALID_ACTION")


def test_a_request_can_wait_for_an_event(http, make_token):
    make_token("ana", "reader", "vision")
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(http.get, f"/events?namespace=vision&after=1&wait=20{more}")
            for more in ("", "&action=namespace:grant")
        ]
        time.sleep(0.7)
        http.post("/models", json={"name": "vision/yolo"})
        assert [event["action"] for event in waiting[0].result(10).json["items"]] == ["model:create"]
        assert not waiting[1].done()
        make_token("bea", "reader", "vision")
        assert [event["seq"] for event in waiting[1].result(10).json["items"]] == [3]


def test_a_request_that_waits_in_vain_gets_an_empty_page(http, make_token):
    make_token("ana", "reader", "vision")
    began = time.monotonic()
    assert http.get("/events?namespace=vision&after=1&wait=1").json["items"] == []
    assert 1 <= time.monotonic() - began < 5
    assert code(http.get("/events?namespace=vision&wait=31")) == (422, "INVALID_PARAMETER")


class Reading:
    """A stream, read block by block. A block is {field: text}."""

    def __init__(self, app, query="", token=ADMIN_SECRET, **headers):
        sent = {"Accept": "text/event-stream", "Authorization": f"Bearer {token}", **headers}
        self.response = app.test_client().get(f"/api/v1/events?namespace=vision{query}", headers=sent)
        assert self.response.status_code == 200, self.response.text
        self._blocks = iter(self.response.response)

    def next(self):
        text = next(self._blocks).decode()
        assert text.endswith("\n\n")
        blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text[:-2].split("\n\n")]
        return blocks[0] if len(blocks) == 1 else blocks

    def close(self):
        self.response.close()


def test_events_are_streamed_as_they_happen_and_resumed(app, http, make_token):
    make_token("ana", "reader", "vision")
    make_token("bea", "reader", "vision")
    stream = Reading(app, "&after=1")
    assert stream.response.mimetype == "text/event-stream"
    assert stream.next() == {"retry": "1000"}
    block = stream.next()
    assert (block["id"], block["event"]) == ("2", "namespace:grant")
    assert json.loads(block["data"]) == http.get("/events?namespace=vision&after=1").json["items"][0]
    http.post("/models", json={"name": "vision/yolo"})
    assert stream.next()["event"] == "model:create"
    stream.close()
    again = Reading(app, "&after=1", **{"Last-Event-ID": "2"})
    again.next()
    assert again.next()["id"] == "3"
    again.close()


def test_a_silent_stream_says_that_it_is_alive_and_how_far_it_is(app, http, make_token, monkeypatch):
    monkeypatch.setattr(events, "_KEEP_ALIVE_S", 0.1)
    make_token("ana", "reader", "vision")
    stream = Reading(app, "&action=promotion:*")
    stream.next()
    assert stream.next() == {"id": "1"}
    assert next(iter(stream.response.response)) == b":\n\n"
    stream.close()


def test_a_stream_ends_after_a_while(app, make_token, monkeypatch):
    monkeypatch.setattr(events, "_STREAM_S", 0.2)
    make_token("ana", "reader", "vision")
    stream = Reading(app)
    assert len(list(stream.response.response)) == 2


def test_only_so_many_wait_at_once_and_a_place_is_given_back(app, http, make_token):
    make_token("ana", "reader", "vision")
    streams = [Reading(app) for _ in range(events._WAITING)]
    streams[0].next()  # the others have not even begun
    refused = http.get("/events?namespace=vision", headers={"Accept": "text/event-stream"})
    assert code(refused) == (503, "FEED_BUSY")
    assert int(refused.headers["Retry-After"]) > 0
    assert code(http.get("/events?namespace=vision&after=1&wait=5")) == (503, "FEED_BUSY")
    assert http.get("/events?namespace=vision&wait=5").status_code == 200  # does not have to wait
    for stream in streams:
        stream.close()
        stream.close()
    for _ in range(events._WAITING + 1):
        Reading(app).close()
    assert http.get("/events?namespace=vision&after=1&wait=1").status_code == 200


def test_a_stream_holds_no_connection_while_nothing_happens(app, make_token, monkeypatch):
    monkeypatch.setattr(events, "_KEEP_ALIVE_S", 0.6)
    make_token("ana", "reader", "vision")
    database = app.extensions["registry"].database
    streams = [Reading(app, "&after=1") for _ in range(events._WAITING)]
    with ThreadPoolExecutor(events._WAITING) as pool:
        for stream in streams:
            stream.next()
        reading = [pool.submit(next, stream._blocks) for stream in streams]
        time.sleep(0.25)
        assert (database.engine.pool.checkedout(), database.reader.pool.checkedout()) == (0, 0)
        assert {each.result(5) for each in reading} == {b":\n\n"}
    for stream in streams:
        stream.close()


def test_followers_see_every_event_once_and_in_order(app, http, make_token, database, admin):
    make_token("ana", "reader", "vision")
    stream = Reading(app)

    def write(number):
        for step in range(10):
            with database.transaction() as session:
                detail = {"number": number, "step": step}
                record(session, admin, Action.MODEL_UPDATE, "vision/m", detail, chain="vision", now=T0)

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, number) for number in range(4)]
        seen: list[int] = []
        while len(seen) < 41:
            found = stream.next()
            seen += [int(block["id"]) for block in (found if isinstance(found, list) else [found]) if "data" in block]
        [each.result() for each in writing]
    stream.close()
    assert seen == list(range(1, 42))


def test_the_end_of_a_chain_can_be_kept(http, make_token):
    make_token("ana", "reader", "vision")
    last = http.items("/events?namespace=vision")[-1]
    assert http.get("/events/head?namespace=Vision").json == {"chain": "vision", "seq": 1, "hash": last["hash"]}
    assert http.get("/events/head").json == {"chain": "default", "seq": 0, "hash": "0" * 64}
    assert code(http.get("/events/head?namespace=nothing")) == (404, "NAMESPACE_NOT_FOUND")


def test_a_chain_is_verified_where_it_lies(http, make_token, database):
    for name in ("ana", "bea", "cleo"):
        make_token(name, "reader", "vision")
    end = http.get("/events/head?namespace=vision").json
    assert http.get("/events/verify?namespace=vision").json == end | {"broken_at": None, "complete": True}
    with database.transaction() as session:
        chains.page_of_events(session, "vision", after=1, limit=1)[0].actor = "somebody"
    found = http.get("/events/verify?namespace=vision").json
    assert (found["seq"], found["broken_at"], found["complete"]) == (1, 2, True)
    assert http.get(f"/events/verify?namespace=vision&after=2&hash={'1' * 64}").json["broken_at"] == 3
    assert code(http.get("/events/verify?namespace=vision&hash=x")) == (422, "INVALID_PARAMETER")


def test_the_end_and_the_verification_are_for_those_who_may_read_the_chain(http, make_token):
    make_token("bea", "reader", "audio")
    ana = make_token("ana", "admin", "vision")
    for path in ("/events/head", "/events/verify"):
        assert http.get(f"{path}?namespace=vision", token=ana).status_code == 200
        assert code(http.get(f"{path}?namespace=audio", token=ana)) == (404, "NAMESPACE_NOT_FOUND")
        assert code(http.get(f"{path}?namespace=_system", token=ana)) == (403, "PERMISSION_DENIED")
