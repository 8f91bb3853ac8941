"""Damaged and hostile files sent to a live server, past the client that would refuse them: the right verdict, no 5xx,
and the same processes afterwards. `make soak` sends 200 of each format.
"""

import http.client
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import psutil
import pytest

from registry.storage.s3 import StoreConfig
from tests.support.live import TOKEN, Live, live_registry
from tests.support.pushing import artifact, digest, put, weights
from tests.weights.mutations import VALID, here, mutated

SHORT = pytest.param(6, id="short")
LONG = pytest.param(200, id="full", marks=[pytest.mark.soak, pytest.mark.timeout(1800)])


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, s3_config: StoreConfig) -> Iterator[Live]:
    with live_registry(tmp_path_factory.mktemp("hostile"), s3_config) as found:
        yield found


def ask(live: Live, method: str, path: str, body: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=120)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    connection.request(method, f"/api/v1{path}", json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)


def push(live: Live, files: dict[str, bytes]) -> tuple[int, Any]:
    """The answer of the commit."""
    pieces = {digest(data): data for data in files.values() if data}
    wanted = [{"digest": name, "size": len(data)} for name, data in pieces.items()]
    status, upload = ask(live, "POST", "/uploads", {"model": "hostile", "segments": wanted})
    assert status == 201, upload
    sent = [item for item in upload["items"] if item["status"] == "upload"]
    for item in sent:
        assert put(item["url"], pieces[item["digest"]], item["headers"])[0] in {200, 412}
    if sent:
        assert (
            ask(live, "PATCH", f"/uploads/{upload['id']}/segments", {"digests": [i["digest"] for i in sent]})[0] == 200
        )
    artifacts = [artifact(path, data) for path, data in files.items()]
    return ask(live, "POST", f"/uploads/{upload['id']}/commit", {"artifacts": artifacts, "new": True})


def servers(live: Live) -> set[int]:
    """The processes that answer requests, without those that look into files."""
    assert live.process is not None
    found = psutil.Process(live.process.pid).children(recursive=True)
    return {each.pid for each in found if "registry.weights.confined_worker" not in each.cmdline()}


@pytest.mark.parametrize("path", sorted(VALID))
@pytest.mark.parametrize("count", [SHORT, LONG])
def test_a_server_gives_the_right_verdict_and_goes_on(path, count, live) -> None:
    before = servers(live)
    for seed in range(count):
        data = mutated(VALID[path], Random(f"live {path} {seed}"))
        files = {path: data, "model.data": bytes(96)} if path.endswith(".onnx") else {path: data}
        status, answer = push(live, files)
        wanted = here(path, data)
        if isinstance(wanted, tuple):
            assert (status, answer["code"]) == (422, wanted[0].code), seed
        else:  # a whole index still lacks its shards, and external data may be said to lie elsewhere
            assert status in ({201, 422} if path.endswith((".onnx", ".index.json")) else {201}), (seed, answer)
    assert push(live, {"model.safetensors": weights()})[0] == 201
    assert servers(live) == before
