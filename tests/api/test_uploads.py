import hashlib
import json
import os
from typing import Any

import pytest

from registry.db.tables import StoredObject
from registry.request import Parts
from tests.support.pushing import artifact, digest, push, put, weights
from tests.support.world import code


def _begin(http, model="yolo", segments=(), **more):
    answer = http.post("/uploads", json={"model": model, "segments": list(segments)}, **more)
    assert answer.status_code == 201, answer.text
    return answer.json


def _asked(data):
    return {"digest": digest(data), "size": len(data)}


def test_a_push_publishes_version_1_of_a_model_it_creates(http):
    version = push(
        http, "yolo", params={"lr0": 0.01}, metrics=[{"name": "mAP50-95", "value": 0.42}], tags={"gpu": "a100"},
        parents=["finetune=hf://ultralytics/yolo11n"], message="freeze=10", aliases=["champion"], class_names=["cat"],
    ).version  # fmt: skip
    assert (version["model"], version["number"], version["created"]) == ("default/yolo", 1, True)
    assert version["metrics"] == {"mAP50-95": 0.42}
    assert version["params"] == {"lr0": 0.01}
    assert version["parents"] == [{"relation": "finetune", "ref": None, "uri": "hf://ultralytics/yolo11n"}]
    assert (version["tags"], version["aliases"], version["class_names"]) == ({"gpu": "a100"}, ["champion"], ["cat"])
    [file] = version["artifacts"]
    assert (file["path"], file["format"], file["tensor_count"]) == ("model.safetensors", "safetensors", 1)
    assert http.get("/models/yolo/versions/1").json == version | {"created": None}


def test_the_digest_is_that_of_the_canonical_manifest(http):
    data = weights()
    entry = {"media_type": "application/x-safetensors", "path": "model.safetensors",
             "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}  # fmt: skip
    manifest = json.dumps({"artifacts": [entry], "schema": 1}, separators=(",", ":"), sort_keys=True)
    assert push(http, "yolo").version["digest"] == digest(manifest.encode())


def test_repeating_a_push_moves_nothing_and_gives_the_same_version(http):
    first, again = push(http, "yolo"), push(http, "yolo")
    assert (first.sent, again.sent) == (1, 0)
    assert (again.answer.status_code, again.version["created"], again.version["number"]) == (200, False, 1)


def test_repeating_a_push_adds_new_metrics_and_tags(http):
    metric = {"name": "mAP50", "value": 0.5}
    push(http, "yolo", metrics=[metric])
    again = push(http, "yolo", metrics=[metric, {"name": "mAP75", "value": 0.3}], tags={"a": "b"}).version
    assert again["metrics"] == {"mAP50": 0.5, "mAP75": 0.3}
    assert again["tags"] == {"a": "b"}
    assert len(http.items("/models/yolo/versions/1/metrics")) == 2


@pytest.mark.parametrize("other", [{"params": {"lr0": 1}}, {"kind": "checkpoint"}, {"run": "r1"}, {"new": True},
                                   {"parents": ["hf://a/b"]}])  # fmt: skip
def test_the_same_content_with_another_origin_is_another_version(http, other):
    first = push(http, "yolo").version
    second = push(http, "yolo", **other)
    assert (second.sent, second.version["number"]) == (0, 2)
    assert second.version["digest"] == first["digest"]


def test_segments_are_shared_inside_a_namespace_and_not_across(http):
    push(http, "vision/a")
    assert push(http, "vision/b").sent == 0
    assert push(http, "speech/a").sent == 1


def test_a_version_may_have_many_files_and_empty_ones(http):
    files = {"model.safetensors": weights(), "config/a.json": b"{}", "empty.txt": b""}
    version = push(http, "yolo", files).version
    assert [file["path"] for file in version["artifacts"]] == ["config/a.json", "empty.txt", "model.safetensors"]
    assert version["size"] == len(weights()) + 2


def test_a_file_named_safetensors_that_is_none_does_not_publish(http):
    refused = push(http, "yolo", {"model.safetensors": b"not a header at all"})
    status, found = code(refused.answer)
    assert (status, found.startswith("SAFETENSORS_")) == (422, True)
    assert code(http.get("/models/yolo")) == (404, "MODEL_NOT_FOUND")


def test_a_pickled_file_is_flagged(http):
    version = push(http, "yolo", {"best.pt": b"\x80\x02}q\x00."}).version
    assert version["artifacts"][0]["pickle"] is True


def test_a_shard_that_is_missing_does_not_publish(http):
    index = {"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
    files = {"a.safetensors": weights(), "model.safetensors.index.json": json.dumps(index).encode()}
    assert code(push(http, "yolo", files).answer) == (422, "SHARD_MISSING")


def test_shards_that_agree_publish(http):
    index = {"metadata": {"total_size": 32}, "weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
    files = {"a.safetensors": weights(), "b.safetensors": weights(2.0, name="v"),
             "model.safetensors.index.json": json.dumps(index).encode()}  # fmt: skip
    assert push(http, "yolo", files).version["number"] == 1


@pytest.mark.parametrize("path", ["../a", "/a", "a/../b", "a\u0000b", ".git/config", "a//b", "con", "x" * 300])
def test_a_path_that_could_leave_its_folder_does_not_publish(http, path):
    upload = _begin(http)
    refused = http.post(f"/uploads/{upload['id']}/commit", json={"artifacts": [artifact(path, b"")]})
    assert code(refused) == (422, "INVALID_PATH")


def test_case_twins_do_not_publish(http):
    upload = _begin(http)
    files = [artifact("A.txt", b""), artifact("a.txt", b"")]
    assert code(http.post(f"/uploads/{upload['id']}/commit", json={"artifacts": files})) == (422, "PATH_COLLISION")


def test_a_segment_that_was_never_sent_does_not_publish(http):
    data = os.urandom(64)
    upload = _begin(http, segments=[_asked(data)])
    refused = http.post(f"/uploads/{upload['id']}/commit", json={"artifacts": [artifact("m.bin", data)]})
    assert code(refused) == (422, "SEGMENTS_MISSING")
    assert refused.json["digests"] == [digest(data)]
    assert code(http.get("/models/yolo")) == (404, "MODEL_NOT_FOUND")


def test_a_segment_that_was_never_sent_cannot_be_reported(http):
    data = os.urandom(64)
    upload = _begin(http, segments=[_asked(data)])
    refused = http.patch(f"/uploads/{upload['id']}/segments", json={"digests": [digest(data)]})
    assert code(refused) == (422, "SEGMENTS_MISSING")


def test_a_segment_that_was_never_asked_about_cannot_be_reported(http):
    upload = _begin(http)
    refused = http.patch(f"/uploads/{upload['id']}/segments", json={"digests": [digest(b"?")]})
    assert code(refused) == (422, "SEGMENTS_MISSING")


def test_what_a_killed_push_sent_is_not_asked_for_again(http):
    data = os.urandom(64)
    [item] = _begin(http, segments=[_asked(data)])["items"]
    assert put(item["url"], data, item["headers"])[0] == 200
    [again] = _begin(http, segments=[_asked(data)])["items"]  # nothing was reported in between
    assert again["status"] == "have"


def test_a_condemned_segment_comes_back_only_by_a_fresh_upload_to_a_fresh_key(http, app):
    data = os.urandom(64)
    push(http, "yolo", {"a.bin": data})
    parts: Parts = app.extensions["registry"]
    with parts.database.transaction() as session:
        [held] = session.query(StoredObject).all()
        held.state = "condemned"
    [item] = _begin(http, segments=[_asked(data)])["items"]
    assert item["status"] == "upload"
    assert f"{digest(data)[7:]}.2.raw" in item["url"]


def test_layouts_that_do_not_add_up_do_not_publish(http):
    data = os.urandom(64)
    upload = _begin(http)
    for wrong in ({"size": 63}, {"digest": digest(b"other")}):
        refused = http.post(f"/uploads/{upload['id']}/commit", json={"artifacts": [artifact("a.bin", data) | wrong]})
        assert code(refused) == (422, "LAYOUT_INVALID")


def test_one_digest_with_two_sizes_is_refused(http):
    segments = [{"digest": digest(b"a"), "size": 1}, {"digest": digest(b"a"), "size": 2}]
    assert code(http.post("/uploads", json={"model": "m", "segments": segments})) == (422, "SEGMENT_SIZE_MISMATCH")
    _begin(http, segments=segments[:1])
    assert code(http.post("/uploads", json={"model": "m", "segments": segments[1:]})) == (422, "SEGMENT_SIZE_MISMATCH")


def test_an_upload_is_its_users_own(http, make_token):
    ana, bob = make_token("ana", "writer"), make_token("bob", "writer")
    upload = _begin(http, token=ana)
    refused = http.post(f"/uploads/{upload['id']}/segments", json={"segments": []}, token=bob)
    assert code(refused) == (404, "UPLOAD_NOT_FOUND")


def test_a_reader_cannot_push_and_a_stranger_sees_no_namespace(http, make_token):
    http.post("/namespaces", json={"name": "vision"})
    reader, stranger = make_token("rea", "reader", "vision"), make_token("stan")
    assert code(http.post("/uploads", json={"model": "vision/m"}, token=reader)) == (403, "PERMISSION_DENIED")
    status, found = code(http.post("/uploads", json={"model": "vision/m"}, token=stranger))
    assert (status, found in ("MODEL_NOT_FOUND", "NAMESPACE_NOT_FOUND")) == (404, True)


def test_only_an_administrators_push_creates_a_namespace(http, make_token):
    writer = make_token("wil", "writer")
    assert code(http.post("/uploads", json={"model": "new/m"}, token=writer))[0] == 404
    assert push(http, "new/m").version["model"] == "new/m"


def test_a_look_alike_name_is_refused_at_publication(http):
    push(http, "yolo11n")
    refused = push(http, "YOLO11N", {"other.txt": b"x"})
    assert code(refused.answer) == (409, "MODEL_EXISTS")
    problem: Any = refused.answer.json
    assert problem["existing"] == "default/yolo11n"


def test_an_abandoned_or_committed_upload_takes_nothing_more(http):
    upload = _begin(http)
    assert http.delete(f"/uploads/{upload['id']}").status_code == 204
    assert code(http.post(f"/uploads/{upload['id']}/segments", json={"segments": []})) == (410, "UPLOAD_EXPIRED")
    assert http.get(f"/uploads/{upload['id']}").json["state"] == "expired"
    first = _begin(http)
    body = {"artifacts": [artifact("empty.txt", b"")]}
    assert http.post(f"/uploads/{first['id']}/commit", json=body).status_code == 201
    assert code(http.post(f"/uploads/{first['id']}/commit", json=body)) == (409, "UPLOAD_COMMITTED")


def test_a_retried_commit_with_its_key_gets_the_same_answer(http):
    upload = _begin(http)
    body, key = {"artifacts": [artifact("empty.txt", b"")]}, {"Idempotency-Key": "k1"}
    first = http.post(f"/uploads/{upload['id']}/commit", json=body, headers=key)
    again = http.post(f"/uploads/{upload['id']}/commit", json=body, headers=key)
    assert (first.status_code, again.status_code, again.headers["Idempotency-Replayed"]) == (201, 201, "true")
    assert first.json == again.json


def test_a_variant_names_its_original(http):
    push(http, "yolo")
    refused = push(http, "yolo", {"q.engine": b"x"}, variant="onnx-int8")
    assert code(refused.answer) == (422, "VARIANT_NEEDS_ORIGINAL")
    derived = push(http, "yolo", {"q.engine": b"x"}, variant="onnx-int8", parents=["quantize=yolo:1"]).version
    assert derived["parents"] == [{"relation": "quantize", "ref": "default/yolo:1", "uri": None}]
    assert http.get("/resolve?ref=yolo").json["number"] == 1


def test_every_act_of_a_push_is_in_the_chain(http):
    push(http, "yolo")
    actions = [event["action"] for event in http.items("/events?namespace=default")]
    assert actions == ["model:create", "version:publish"]
