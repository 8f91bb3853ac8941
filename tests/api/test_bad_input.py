"""What the registry is told wrongly: a stable code, a status, one sentence, a remedy, and no change.

What it stands on is broken in test_outages.py. A full disk at the other end of a pull is the client's affair:
tests/client/test_download.py. Each rule is a table that one scene is asked about, because a scene takes a second.
"""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from registry.api import openapi
from registry.db.tables import Token
from registry.request import BODY_LIMIT
from registry.services.accounts import find_user
from tests.support.pushing import artifact, digest, push, weights
from tests.support.refusals import refusal, unchanged
from tests.support.world import ADMIN_SECRET, T0

STAGE = "/models/yolo/stages/production"
FILE = "/models/yolo/versions/2/artifacts/model.safetensors"  # of two segments, so that it comes from here
DEEP = b"[" * 100_000 + b"]" * 100_000
UPLOADS = ("uploads",)  # a refused push leaves its upload, which expires

REFERENCES = [
    ("nothing", (404, "MODEL_NOT_FOUND")),
    ("nowhere/yolo", (404, "MODEL_NOT_FOUND")),
    ("yolo:9", (404, "VERSION_NOT_FOUND")),
    ("yolo@nobody", (404, "POINTER_NOT_FOUND")),
    ("yolo@staging", (404, "POINTER_NOT_FOUND")),
    ("yolo@best", (404, "NO_BEST_VERSION")),
    (f"yolo@{digest(b'unknown')}", (404, "VERSION_NOT_FOUND")),
    ("yolo@sha256:12", (422, "INVALID_REFERENCE")),
    ("yolo:0", (422, "INVALID_REFERENCE")),
    ("yolo:latest", (422, "INVALID_REFERENCE")),
    ("a/b/c", (422, "INVALID_NAME")),
    ("yolo@", (422, "INVALID_POINTER_NAME")),
    ("", (422, "INVALID_PARAMETER")),
    ("\0", (422, "INVALID_NAME")),
]
TAKEN = [
    ("/models", "yolo", "MODEL_EXISTS"),
    ("/models", "default/yolo", "MODEL_EXISTS"),
    ("/models", "Yolo", "MODEL_EXISTS"),
    ("/models", "DEFAULT/YOLO", "MODEL_EXISTS"),
    ("/namespaces", "default", "NAMESPACE_EXISTS"),
    ("/namespaces", "DeFault", "NAMESPACE_EXISTS"),
    ("/users", "admin", "USER_EXISTS"),
]
LAYOUTS: list[tuple[dict[str, Any], str]] = [
    ({"digest": digest(b"other")}, "LAYOUT_INVALID"),
    ({"digest": "sha256:12"}, "INVALID_BODY"),
    ({"digest": "md5:" + "0" * 32}, "INVALID_BODY"),
    ({"digest": digest(b"x").upper()}, "INVALID_BODY"),
    ({"size": 5}, "LAYOUT_INVALID"),
    ({"size": -1}, "INVALID_BODY"),
    ({"segments": []}, "LAYOUT_INVALID"),
    ({"path": "../x"}, "INVALID_PATH"),
    ({}, "SEGMENTS_MISSING"),
]


def header(text):
    return len(text).to_bytes(8, "little") + text


FILES = [
    (weights()[:-1], "SAFETENSORS_TRUNCATED"),
    (weights()[:20], "SAFETENSORS_TRUNCATED"),
    (weights()[:7], "SAFETENSORS_TRUNCATED"),
    (weights() + b"\0", "SAFETENSORS_TRAILING_BYTES"),
    (b"GGUF" + bytes(60), "SAFETENSORS_HEADER_TOO_LARGE"),
    (b"PK\x03\x04" + bytes(60), "SAFETENSORS_HEADER_TOO_LARGE"),
    (header(b'{"a" 1}'), "SAFETENSORS_SYNTAX"),
    (header(b"[]"), "SAFETENSORS_NOT_AN_OBJECT"),
    (header(b'{"a":' + DEEP + b"}"), "SAFETENSORS_NOT_AN_OBJECT"),
]
ELSEWHERE = [
    "wr_" + "0" * 40,
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "hf_0123456789abcdefghijABCDEFGHIJ0123",
    "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.",
    ADMIN_SECRET + "x",
    "\xff\xfe",
    "x" * 100_000,
]
BODIES = [
    (b"", (422, "INVALID_BODY")),
    (b"{", (422, "INVALID_BODY")),
    (b"[]", (422, "INVALID_BODY")),
    (b"null", (422, "INVALID_BODY")),
    (b"\xef\xbb\xbf{}", (422, "INVALID_BODY")),
    (b'{"artifacts": []}', (422, "INVALID_BODY")),
    (b'{"run": "\xff"}', (422, "INVALID_BODY")),
    (b'{"message": "\\ud800", FILES}', (422, "INVALID_BODY")),
    (b'{"message": "\\u0000", FILES}', (422, "INVALID_BODY")),
    (b'{"unknown": 1, FILES}', (422, "INVALID_BODY")),
    (b'{"new": "yes", FILES}', (422, "INVALID_BODY")),
    (b'{"new": 1, FILES}', (422, "INVALID_BODY")),
    (b'{"run": "a\\u0000b", FILES}', (422, "INVALID_LABEL")),
    (b'{"class_names": ["\\u0000"], FILES}', (422, "UNSTORABLE_VALUE")),
    (b'{"params": {"a": {"b": ["\\u0000"]}}, FILES}', (422, "UNSTORABLE_VALUE")),
    (b'{"params": {"a": {"\\u0000": 1}}, FILES}', (422, "UNSTORABLE_VALUE")),
    (b'{"params": {"a": NaN}, FILES}', (422, "NOT_CANONICAL_JSON")),
    (b'{"params": {"a": 1e999}, FILES}', (422, "NOT_CANONICAL_JSON")),
    (b'{"params": {"a": %s}, FILES}' % (b"9" * 400), (422, "NOT_CANONICAL_JSON")),
    (b'{"params": {"a": %s}, FILES}' % (b"9" * 5000), (422, "INVALID_BODY")),
    (b'{"params": {"a": %s}, FILES}' % DEEP, (422, "INVALID_BODY")),
    (b'{"params": {"a": %s}, FILES}' % (b"[" * 90 + b"]" * 90), (422, "NOT_CANONICAL_JSON")),
    (b'{"params": {"a": "%s"}, FILES}' % (b"x" * 300_000), (422, "PARAMS_TOO_LARGE")),
    (b'{"metrics": [{"name": "m", "value": Infinity}], FILES}', (422, "INVALID_BODY")),
    (b'{"metrics": [{"name": "m", "value": 1, "step": %s}], FILES}' % (b"9" * 30), (422, "INVALID_BODY")),
    (b'{"metrics": [{"name": "m", "value": "1"}], FILES}', (422, "INVALID_BODY")),
    (b'{"parents": ["yolo:9"], FILES}', (404, "VERSION_NOT_FOUND")),
    (b'{"parents": ["finetune=yolo="], FILES}', (422, "INVALID_PARENT")),
    (b'{"aliases": ["production"], FILES}', (409, "ALIAS_IS_STAGE")),
    (b'{"aliases": ["latest"], FILES}', (422, "RESERVED_NAME")),
]
LISTS = [
    "/models?",
    "/models/yolo/versions?",
    "/models/yolo/versions/1/artifacts?",
    "/models/yolo/versions/1/lineage?",
    "/models/yolo/versions/1/metrics?",
    "/models/yolo/versions/1/segments?artifact=model.safetensors&",
    "/models/yolo/versions/1/tensors?artifact=model.safetensors&",
    "/models/yolo/aliases?",
    f"{STAGE}/history?",
    "/namespaces?",
    "/namespaces/default/grants?",
    "/events?",
    "/tokens?",
    "/users?",
]
# In Base64: null, [], [1.5], [null], ["a", "b", 1], [1e999], [[1]].
CURSORS = [
    "x",
    "é",
    "%00",
    "bnVsbA==",
    "W10=",
    "WzEuNV0=",
    "W251bGxd",
    "WyJhIiwgImIiLCAxXQ==",
    "WzFlOTk5XQ==",
    "W1sxXV0=",
]
LIMITS = ["0", "-1", "1001", "1e3", "", "x", "9" * 30, "%D9%A1", "1.0"]
ADDRESSES = [
    ("GET", "/nothing", (404, "NOT_FOUND")),
    ("GET", "/models/a/b/c", (404, "NOT_FOUND")),
    ("GET", "/models//yolo", (404, "NOT_FOUND")),
    ("GET", "/models/yolo/", (404, "NOT_FOUND")),
    ("GET", "/models/%00", (404, "NOT_FOUND")),
    ("GET", "/models/%ED%A0%80", (404, "NOT_FOUND")),
    ("GET", "/models/yolo/versions/-1", (404, "NOT_FOUND")),
    ("GET", "/models/yolo/versions/1.5", (404, "NOT_FOUND")),
    ("GET", "/models/yolo/versions/" + "9" * 30, (404, "VERSION_NOT_FOUND")),
    ("GET", "/models/yolo/versions/0", (404, "VERSION_NOT_FOUND")),
    ("GET", "/models/yolo/aliases/%FF", (422, "INVALID_POINTER_NAME")),
    ("GET", "/models/yolo/versions/1/artifacts/..%2f..%2fetc%2fpasswd", (404, "ARTIFACT_NOT_FOUND")),
    ("PUT", "/models", (405, "METHOD_NOT_ALLOWED")),
    ("POST", "/whoami", (405, "METHOD_NOT_ALLOWED")),
    ("TRACE", "/models", (405, "METHOD_NOT_ALLOWED")),
    ("BREW", "/models", (405, "METHOD_NOT_ALLOWED")),
]


@pytest.fixture
def yolo(http):
    """A model with two versions, the first in production."""
    push(http, "yolo", aliases=["champion"])
    push(http, "yolo", {"model.safetensors": weights(2.0)}, size=50)
    assert http.post(f"{STAGE}/promotions", json={"version": 1}).status_code == 201


def commit(http, body):
    upload = http.post("/uploads", json={"model": "yolo"}).json["id"]
    sent = {"json": body} if isinstance(body, dict) else {"data": body, "content_type": "application/json"}
    return http.post(f"/uploads/{upload}/commit", **sent)


def test_a_reference_that_means_nothing_is_refused(http, yolo):
    for reference, expected in REFERENCES:
        assert refusal(http.get("/resolve", query_string={"ref": reference})) == expected, reference


def test_a_name_that_is_taken_or_looks_like_one_is_refused(http, database, yolo):
    with unchanged(database):
        for path, name, expected in TAKEN:
            assert refusal(http.post(path, json={"name": name})) == (409, expected), name


def test_names_that_differ_in_punctuation_alone_are_one_name(http, database):
    http.post("/models", json={"name": "a.b"})
    with unchanged(database):
        for name in ("a-b", "a_b", "A..b", "a._-b"):
            assert refusal(http.post("/models", json={"name": name})) == (409, "MODEL_EXISTS"), name


def test_a_digest_or_a_layout_that_is_wrong_does_not_publish(http, database, yolo):
    with unchanged(database, but=UPLOADS):
        for wrong, expected in LAYOUTS:
            refused = commit(http, {"artifacts": [artifact("a.bin", b"never sent") | wrong]})
            assert refusal(refused) == (422, expected), wrong


def test_a_file_that_is_not_the_safetensors_it_is_called_does_not_publish(http, database, yolo):
    with unchanged(database, but=(*UPLOADS, "segments", "objects")):  # the bytes are there, for a while
        for file, expected in FILES:
            refused = push(http, "yolo", {"model.safetensors": file}).answer
            assert refusal(refused) == (422, expected), file[:50]


def test_a_token_of_elsewhere_is_refused_and_never_repeated(http, database):
    with unchanged(database):
        for secret in ELSEWHERE:
            refused = http.post("/models", json={"name": "m"}, token=secret)
            assert refusal(refused) == (401, "UNKNOWN_TOKEN"), secret
            assert secret not in refused.text


def test_an_expired_and_a_revoked_token_are_refused(http, database, make_token):
    expired, revoked = make_token("ana", "writer"), make_token("bob", "writer")
    with database.transaction() as session:
        for row in session.scalars(select(Token).where(Token.user_id == find_user(session, "ana").id)):
            row.expires_at = T0.replace(year=2020)
        number = session.scalars(select(Token.id).where(Token.user_id == find_user(session, "bob").id)).one()
    http.delete(f"/tokens/{number}")
    with unchanged(database):
        assert refusal(http.post("/models", json={"name": "m"}, token=expired)) == (401, "EXPIRED_TOKEN")
        assert refusal(http.post("/models", json={"name": "m"}, token=revoked)) == (401, "UNKNOWN_TOKEN")


def test_a_body_that_is_not_what_the_route_takes_is_refused(http, database, yolo):
    files = b'"artifacts": ' + json.dumps([artifact("empty.txt", b"")]).encode()
    with unchanged(database, but=UPLOADS):
        for body, expected in BODIES:
            assert refusal(commit(http, body.replace(b"FILES", files))) == expected, body[:80]


def test_of_a_key_that_is_written_twice_the_last_counts(http):
    """As everywhere JSON is read; what counts is checked, so nothing passes unseen."""
    files = json.dumps([artifact("empty.txt", b"")]).encode()
    sent = b'{"artifacts": [], "artifacts": %s, "params": {"lr": 1, "lr": 2}}' % files
    assert commit(http, sent).json["params"] == {"lr": 2}


def test_backslashes_before_what_looks_like_a_nul_are_text(http):
    params = {"pattern": r"\u0000", "other": r"\\u0000", r"\u0000": 1}
    sent = {"artifacts": [artifact("empty.txt", b"")], "params": params}
    assert commit(http, sent).json["params"] == params


def test_a_body_over_its_limit_is_refused(http, database):
    with unchanged(database):
        for path, limit in (("/models", BODY_LIMIT), ("/tokens", BODY_LIMIT), ("/uploads", 4 * BODY_LIMIT)):
            refused = http.post(path, data=b'{"name": "%s"}' % (b"x" * limit), content_type="application/json")
            assert refusal(refused) == (413, "BODY_TOO_LARGE"), path


def test_a_body_that_is_not_called_json_is_refused(http, database):
    with unchanged(database):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json", None):
            refused = http.post("/models", data='{"name": "m"}', content_type=kind)
            assert refusal(refused) == (415, "UNSUPPORTED_MEDIA_TYPE"), kind


def test_a_cursor_or_limit_that_is_none_is_refused(http, yolo):
    for path in LISTS:
        for cursor in CURSORS:
            assert refusal(http.get(f"{path}cursor={cursor}")) == (422, "INVALID_CURSOR"), (path, cursor)
        for limit in LIMITS:
            assert refusal(http.get(f"{path}limit={limit}")) == (422, "INVALID_PARAMETER"), (path, limit)


def test_an_address_or_a_method_that_is_none_is_refused_as_a_problem(http, database, yolo):
    with unchanged(database):
        for method, path, expected in ADDRESSES:
            refused = http.request(method, path)
            assert refusal(refused) == expected, (method, path)
            assert ("Allow" in refused.headers) == (refused.status_code == 405)


def test_a_range_outside_the_file_is_refused(http, yolo):
    for asked in ("bytes=88-", "bytes=999999999999999999999-"):
        refused = http.get(FILE, headers={"Range": asked})
        assert refusal(refused) == (416, "RANGE_NOT_SATISFIABLE"), asked
        assert refused.headers["Content-Range"] == f"bytes */{len(weights())}"


def test_a_range_that_is_none_is_ignored_as_http_says(http, yolo):
    for asked in ("garbage", "bytes=", "bytes=9-1", "bytes=-0", "lines=1-2", "bytes=0-1,3-4", "bytes=²-"):
        answer = http.get(FILE, headers={"Range": asked})
        assert (answer.status_code, answer.data) == (200, weights(2.0)), asked


def test_an_if_match_of_something_else_is_refused(http, database, yolo):
    with unchanged(database):
        for match in ("garbage", '"production-0"', 'W/"production-1"', '""', "é"):
            for path, body in ((f"{STAGE}/promotions", {"version": 2}), (f"{STAGE}/rollback", {})):
                refused = http.post(path, json=body, headers={"If-Match": match})
                assert refusal(refused) == (412, "PRECONDITION_FAILED"), match


def test_an_idempotency_key_that_is_none_is_refused_wherever_it_is_sent(http, database, yolo):
    asked = [
        ("POST", "/models", {"name": "m"}),
        ("POST", "/uploads", {"model": "m"}),
        ("POST", f"{STAGE}/rollback", {}),
        ("DELETE", "/models/yolo/aliases/champion", None),
    ]
    with unchanged(database):
        for key in ("", "x" * 251, "é", "a\x01b"):
            for method, path, body in asked:
                refused = http.request(method, path, json=body, headers={"Idempotency-Key": key})
                assert refusal(refused) == (422, "INVALID_PARAMETER"), (key, path)


WORDS = ["yolo", "default/yolo", "ana", "production", "champion", digest(b"x"), "yolo:1", "", "\0", "\ud800", "x" * 300]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def test_no_body_makes_the_server_fail(app, http, yolo):
    document = openapi.document(app)
    there = {"user": "ana", "name": "ana", "namespace": "default", "model": "yolo", "number": "1", "key": "k"}
    there |= {"stage": "production", "alias": "champion"}
    there["upload"] = http.post("/uploads", json={"model": "yolo"}).json["id"]
    stage = "/models/yolo/stages/production"
    there["promotion"] = http.post(f"{stage}/promotions", json={"version": 1}).json["id"]
    consumer = {"name": "edge", "follows": "yolo@production"}
    there["consumer"] = http.post("/models/yolo/consumers", json=consumer).json["id"]
    hook = {"namespace": "default", "url": "https://hooks.example.com/"}
    there["webhook"] = http.post("/webhooks", json=hook).json["id"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if "requestBody" in operation:
                shape = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                fields = document["components"]["schemas"][shape].get("properties", {})
                tell(http, method.upper(), path.format(**there), fields)


def tell(http, method, url, fields):
    @settings(
        max_examples=15,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(body=st.fixed_dictionaries({}, optional=dict.fromkeys(fields, VALUES)) | VALUES)
    def send(body):
        answer = http.request(method, url, data=json.dumps(body), content_type="application/json")
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            refusal(answer)

    send()
