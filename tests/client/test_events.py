import http.client
import json
import threading
import time
from contextlib import closing
from itertools import islice

import pytest

from tests.support.live import TOKEN, live_registry


@pytest.fixture
def own(tmp_path, s3_config):
    """A registry that a test may stop."""
    with live_registry(tmp_path / "own", s3_config) as found:
        yield found


class Stream:
    def __init__(self, live):
        self.connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
        sent = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
        self.connection.request("GET", "/api/v1/events?namespace=default", headers=sent)
        self.response = self.connection.getresponse()

    def block(self):
        lines = iter(lambda: self.response.readline().decode().rstrip("\n"), "")
        return dict(line.split(": ", 1) for line in lines)

    def close(self):
        self.response.close()
        self.connection.close()


def is_refused(live):
    with closing(Stream(live)) as stream:
        return stream.response.status == 503


def test_a_stream_comes_through_the_server_as_it_happens(own):
    with closing(Stream(own)) as stream, own.client() as client:
        assert stream.response.headers["Content-Type"].startswith("text/event-stream")
        assert stream.block() == {"retry": "1000"}
        began = time.monotonic()
        client.create_model("a")
        found = stream.block()
        assert time.monotonic() - began < 5
    assert (found["id"], found["event"], json.loads(found["data"])["subject"]) == ("1", "model:create", "default/a")


def test_whoever_goes_gives_the_place_back_and_others_are_answered_meanwhile(own):
    kept = [Stream(own) for _ in range(4)]
    assert [each.response.status for each in kept] == [200] * 4
    assert is_refused(own)
    with own.client() as client:
        client.create_model("a")
    for each in kept:
        each.close()
    end = time.monotonic() + 60
    while is_refused(own):
        assert time.monotonic() < end
        time.sleep(0.5)


def test_a_server_with_open_streams_ends_when_it_is_told(own):
    kept = [Stream(own) for _ in range(3)]
    began = time.monotonic()
    own.stop()
    took = time.monotonic() - began
    for each in kept:
        each.close()
    own.start()
    assert took < 20


def test_events_are_followed_across_a_restart(own):
    with own.client() as client, closing(client.events("default", follow=True)) as events:
        client.create_model("a")
        assert next(events).seq == 1

        def restart():
            own.stop()
            own.start()
            with own.client() as other:
                other.create_model("b")
                other.create_model("c")

        thread = threading.Thread(target=restart)
        thread.start()
        assert [each.seq for each in islice(events, 2)] == [2, 3]
        thread.join()
        assert [each.seq for each in client.events("default", after=1, action="model:*", limit=1)] == [2]
