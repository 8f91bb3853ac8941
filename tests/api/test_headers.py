"""What every answer carries, whatever it answers; and what no log ever holds."""

import json
import re
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from registry.storage.s3 import Store, StoreConfig
from tests.support.live import TOKEN, live_registry
from tests.support.pushing import digest, push, weights
from tests.support.world import PREFIX

STAGE = "/models/yolo/stages/production"
FILE = "/models/yolo/versions/1/artifacts/model.safetensors"
ID = re.compile(r"[0-9a-f]{32}")
SINGLE = [
    "/models/yolo",
    "/models/yolo/versions/1",
    "/models/yolo/aliases/champion",
    STAGE,
    "/resolve?ref=yolo@production",
    "/namespaces/default",
    "/whoami",
    "/storage",
    "/openapi.json",
    f"{FILE}?redirect=0",
]
LISTS = [
    "/models",
    "/models/yolo/versions",
    "/models/yolo/aliases",
    "/models/yolo/versions/1/artifacts",
    "/models/yolo/versions/1/metrics",
    "/models/yolo/versions/1/segments?artifact=model.safetensors",
    "/models/yolo/versions/1/tensors?artifact=model.safetensors",
    "/models/yolo/versions/2/lineage",
    f"{STAGE}/history",
    "/namespaces",
    "/namespaces/default/grants",
    "/events",
    "/tokens",
    "/users",
]


@pytest.fixture
def yolo(http, people):
    """A model of which every list has two items."""
    measured = [{"name": "mAP", "value": 0.4}, {"name": "loss", "value": 0.2}]
    files = {"model.safetensors": save({"a": np.zeros(4), "b": np.ones(4)}), "a.txt": b"a"}
    push(http, "base", {"a.txt": b"x"})
    push(http, "yolo", files, size=64, aliases=["champion", "second"], metrics=measured)
    push(http, "yolo", {"model.safetensors": weights()}, parents=["yolo:1", "base:1"])
    for number in (1, 2):
        http.post(f"{STAGE}/promotions", json={"version": number})
    for name in ("ana", "bob"):
        people.secret(name, "writer")
    people.secret("cleo", "reader", "vision")
    http.post("/tokens", json={"name": "second"})


def asked(http):
    """An answer of each kind, by the status that it has."""
    etag = {"If-None-Match": http.get("/models/yolo").headers["ETag"]}
    reading = http.post("/tokens", json={"name": "r", "actions": ["read"]}).json["token"]
    return {
        200: http.get("/models/yolo"),
        201: http.post("/models", json={"name": "m"}),
        204: http.delete("/models/yolo/aliases/second"),
        206: http.get(f"{FILE}?redirect=0", headers={"Range": "bytes=0-9"}),
        304: http.get("/models/yolo", headers=etag),
        307: http.get("/models/yolo/versions/2/artifacts/model.safetensors"),
        401: http.get("/models", token=None),
        403: http.post("/users", json={"name": "x"}, token=reading),
        404: http.get("/nothing"),
        405: http.put("/models"),
        409: http.post("/models", json={"name": "yolo"}),
        412: http.post(f"{STAGE}/promotions", json={"version": 1}, headers={"If-Match": '"x"'}),
        413: http.post("/models", data=b"x" * 2_000_000, content_type="application/json"),
        415: http.post("/models", data=b"x"),
        416: http.get(f"{FILE}?redirect=0", headers={"Range": "bytes=999-"}),
        422: http.get("/models?limit=0"),
    }


def test_every_answer_names_its_request_and_forbids_guessing_its_type(http, yolo):
    answers = asked(http)
    for status, answer in answers.items():
        assert answer.status_code == status, answer.text
    others = [http.head("/models/yolo"), http.request("OPTIONS", "/models"), http.get("/healthz"), http.get("/readyz")]
    for answer in (*answers.values(), *others):
        assert ID.fullmatch(answer.headers["X-Request-Id"]), answer
        assert answer.headers["X-Content-Type-Options"] == "nosniff", answer
    assert len({answer.headers["X-Request-Id"] for answer in answers.values()}) == len(answers)


def test_an_id_that_a_client_sends_is_not_taken_for_ours(http):
    answer = http.get("/whoami", headers={"X-Request-Id": "forged"})
    assert answer.headers["X-Request-Id"] != "forged"


def test_a_refusal_says_what_its_status_promises(http, yolo):
    for status, answer in asked(http).items():
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        assert ("Allow" in answer.headers) == (status == 405)
        assert ("Location" in answer.headers) == (status == 307)
        assert (answer.mimetype == "application/problem+json") == (status >= 400)
        if status in (204, 304):
            assert answer.data == b""


def test_a_single_thing_carries_an_etag_and_is_not_sent_again(http, yolo):
    for path in SINGLE:
        first = http.get(path)
        assert first.status_code == 200, first.text
        etag = first.headers["ETag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = http.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag), (path, known)
        assert http.get(path, headers={"If-None-Match": '"other"'}).data == first.data


def test_what_is_private_is_kept_by_nobody_on_the_way(http, yolo):
    for path in (*SINGLE, *LISTS):
        if path != "/openapi.json":
            assert http.get(path).headers["Cache-Control"] == "private, no-cache", path
    assert http.post("/tokens", json={"name": "t"}).headers["Cache-Control"] == "no-store"


def test_a_list_links_to_its_next_page_until_the_last(http, yolo):
    for path in LISTS:
        joint = "&" if "?" in path else "?"
        answer = http.get(f"{path}{joint}limit=1")
        found = []
        while True:
            assert answer.status_code == 200, answer.text
            found += answer.json["items"]
            if answer.json["next"] is None:
                break
            [link] = re.findall(r'^<http://localhost(/[^>]+)>; rel="next"$', answer.headers["Link"])
            answer = http.get(link)
        assert "Link" not in answer.headers, path
        assert len(found) >= 2, path
        assert found == http.items(path), path


def send(live, method, path, body=None, *, token=TOKEN):
    """Status and document of an answer over the wire."""
    request = urllib.request.Request(
        f"{live.url}{path}",
        None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_no_secret_and_no_signed_url_reaches_the_log(tmp_path, s3_config: StoreConfig):
    store = Store(replace(s3_config, bucket="test-of-the-log"))
    store.ensure_bucket()
    with live_registry(tmp_path / "live", store.config) as live:
        secret = send(live, "POST", f"{PREFIX}/tokens", {"name": "t"})[1]["token"]
        asked = {"model": "yolo", "segments": [{"digest": digest(b"new"), "size": 3}]}
        upload = send(live, "POST", f"{PREFIX}/uploads", asked, token=secret)[1]
        [url] = [item["url"] for item in upload["items"]]
        signature = url.partition("X-Amz-Signature=")[2]
        assert re.fullmatch("[0-9a-f]{64}", signature)
        store._client.delete_bucket(Bucket=store.config.bucket)  # from here on the store is broken
        report = {"digests": [digest(b"new")]}
        assert send(live, "PATCH", f"{PREFIX}/uploads/{upload['id']}/segments", report, token=secret)[0] == 422
        assert send(live, "GET", f"/readyz?token={secret}", token=secret)[0] == 503
        assert send(live, "POST", f"{PREFIX}/models", {"name": "m"}, token="hf_of_another_service")[0] == 401
        assert send(live, "POST", f"{PREFIX}/tokens", {"name": "", "user": TOKEN}, token=secret)[0] == 422
    log = (tmp_path / "live" / "api.log").read_text()
    assert '"status": 503' in log
    for private in (TOKEN, secret, "hf_of_another_service", signature, "X-Amz-", "Bearer", str(s3_config.secret_key)):
        assert private not in log, private
