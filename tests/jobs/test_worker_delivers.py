"""The whole way: an event that a request caused reaches a receiver through the worker as it is run."""

import subprocess
import sys

import pytest

from registry.client import Client
from tests.support import ROOT
from tests.support.chaos import until
from tests.support.live import live_registry
from tests.support.receiver import Receiver, receiving

pytestmark = pytest.mark.slow


def test_the_worker_delivers_and_says_so(tmp_path, s3_config):
    with (
        receiving(Receiver()) as receiver,
        live_registry(tmp_path / "registry", s3_config, REGISTRY_WEBHOOK_ALLOW="127.0.0.1") as live,
        live.client() as client,
    ):
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "registry", "worker"], cwd=ROOT, env=live.environment, stdout=log, stderr=log
            )
        try:
            deliver(client, receiver)
        finally:
            worker.terminate()
            assert worker.wait(30) == 0
        said = (tmp_path / "worker.log").read_text()
        assert "worker ready" in said
        assert receiver.secret not in said
        assert "hidden" not in said


def deliver(client: Client, receiver: Receiver) -> None:
    made = client.create_webhook(receiver.url("/hook?token=hidden"), namespace="default", actions=["model:*"])
    receiver.secret = made.secret
    assert made.secret not in repr(made)
    client.create_model("yolo")
    until(lambda: [each.action for each in receiver.messages] == ["model:create"], "the event arrived")
    test = client.test_webhook(made.id)
    until(lambda: client.delivery(made.id, test.id).state == "delivered", "the test event arrived")
    [first, second] = client.deliveries(made.id)
    assert [first.action, second.action] == ["webhook:test", "model:create"]
    assert second.attempts[0].status_class == "2xx"
    assert {first.id, second.id} == {each.id for each in receiver.messages}
    receiver.answer = lambda _body, _before: 410
    client.update_model("yolo", description="new")
    until(lambda: not client.webhook(made.id).enabled, "410 has disabled it")
    assert client.webhook(made.id).dead == 1
    receiver.answer = lambda _body, _before: 200
    client.update_webhook(made.id, enabled=True)
    assert client.replay(made.id, dead=True) == 1
    until(lambda: client.webhook(made.id).dead + client.webhook(made.id).pending == 0, "the replay arrived")
    assert receiver.problems == []
