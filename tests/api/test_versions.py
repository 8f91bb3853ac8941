import pytest
from sqlalchemy import text

from registry.domain.digest import format_digest
from tests.support.pushing import digest, push, weights
from tests.support.world import code


def _numbers(items):
    return [item["number"] for item in items]


def _resolved(http, reference):
    answer = http.get(f"/resolve?ref={reference}")
    assert answer.status_code == 200, answer.text
    return answer.json["number"]


def _files(value):
    return {"m.safetensors": weights(value)}


def test_a_bare_name_means_the_highest_ready_release_that_is_an_original(http):
    push(http, "yolo", _files(1.0))
    push(http, "yolo", _files(2.0))
    push(http, "yolo", _files(3.0), kind="checkpoint")
    push(http, "yolo", _files(4.0), variant="int8", parents=["quantize=yolo:2"])
    push(http, "yolo", _files(5.0))
    http.delete("/models/yolo/versions/5")
    assert _resolved(http, "yolo") == 2


def test_a_digest_means_the_highest_live_version_that_has_it(http):
    first = push(http, "yolo").version
    push(http, "yolo", new=True)
    push(http, "yolo", new=True)
    http.delete("/models/yolo/versions/3")
    assert _resolved(http, f"yolo@{first['digest']}") == 2


def test_best_follows_the_models_objective_on_its_data(http):
    for value, score in ((1.0, 0.3), (2.0, 0.9), (3.0, 0.5)):
        push(http, "yolo", _files(value), metrics=[{"name": "mAP", "value": score, "dataset": "coco", "split": "val"}])
    push(http, "yolo", _files(4.0), metrics=[{"name": "mAP", "value": 0.99, "dataset": "toy"}])
    objective = {"metric": "mAP", "direction": "max", "dataset": "coco", "split": "val"}
    assert code(http.get("/resolve?ref=yolo@best")) == (404, "NO_BEST_VERSION")
    assert http.patch("/models/yolo", json={"objective": objective}).status_code == 200
    assert _resolved(http, "yolo@best") == 2
    http.patch("/models/yolo", json={"objective": objective | {"direction": "min"}})
    assert _resolved(http, "yolo@best") == 1


def test_best_goes_by_the_newest_measurement(http):
    push(http, "yolo", _files(1.0), metrics=[{"name": "mAP", "value": 0.9}])
    push(http, "yolo", _files(2.0), metrics=[{"name": "mAP", "value": 0.5}])
    http.post("/models/yolo/versions/1/metrics", json={"metrics": [{"name": "mAP", "value": 0.1}]})
    http.patch("/models/yolo", json={"objective": {"metric": "mAP", "direction": "max"}})
    assert _resolved(http, "yolo@best") == 2


@pytest.mark.parametrize(
    ("reference", "status", "found"),
    [
        ("nothing", 404, "MODEL_NOT_FOUND"),
        ("yolo:9", 404, "VERSION_NOT_FOUND"),
        ("yolo@champion", 404, "POINTER_NOT_FOUND"),
        ("yolo@production", 404, "POINTER_NOT_FOUND"),
        (f"yolo@{digest(b'x')}", 404, "VERSION_NOT_FOUND"),
        ("yolo:0", 422, "INVALID_REFERENCE"),
        ("yolo@latest", 422, "INVALID_REFERENCE"),
        ("a/b/c", 422, "INVALID_NAME"),
        ("versions", 422, "RESERVED_NAME"),
        ("", 422, "INVALID_PARAMETER"),
    ],
)
def test_a_reference_that_means_nothing_says_what_is_missing(http, reference, status, found):
    push(http, "yolo")
    answer = http.get("/resolve", query_string={"ref": reference})
    assert code(answer) == (status, found)
    assert answer.json["remedy"]


def test_resolving_is_insensitive_to_spelling_and_answers_the_canonical_name(http):
    push(http, "vision/yolo-11n")
    assert http.get("/resolve?ref=VISION/Yolo_11N:1").json["model"] == "vision/yolo-11n"


def test_an_unchanged_answer_is_304(http):
    push(http, "yolo")
    first = http.get("/resolve?ref=yolo")
    again = http.get("/resolve?ref=yolo", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_a_list_is_newest_first_and_leaves_out_the_trash(http):
    for value in range(7):
        push(http, "yolo", _files(float(value)), kind="checkpoint" if value % 2 else "release")
    http.delete("/models/yolo/versions/3")
    assert _numbers(http.items("/models/yolo/versions", limit=2)) == [7, 6, 5, 4, 2, 1]
    assert _numbers(http.items("/models/yolo/versions?kind=checkpoint", limit=2)) == [6, 4, 2]
    assert _numbers(http.items("/models/yolo/versions?state=trashed")) == [3]


def test_a_trashed_version_is_gone_until_it_is_restored(http):
    push(http, "yolo")
    assert http.delete("/models/yolo/versions/1").json["state"] == "trashed"
    assert http.delete("/models/yolo/versions/1").status_code == 200
    assert code(http.get("/resolve?ref=yolo:1")) == (410, "VERSION_TRASHED")
    assert http.post("/models/yolo/versions/1/restore").json["state"] == "ready"
    assert code(http.post("/models/yolo/versions/1/restore")) == (409, "VERSION_NOT_TRASHED")
    assert _resolved(http, "yolo:1") == 1


def test_a_version_in_use_cannot_be_trashed(http):
    push(http, "yolo", aliases=["champion"])
    push(http, "yolo", _files(2.0), parents=["yolo:1"])
    http.post("/models/yolo/stages/production/promotions", json={"version": 1})
    refused = http.delete("/models/yolo/versions/1")
    assert code(refused) == (409, "VERSION_IN_USE")
    assert refused.json["reasons"] == ["alias champion", "stage production", "parent of default/yolo:2"]
    assert _resolved(http, "yolo:1") == 1


def test_a_trashed_parent_cannot_get_children(http):
    push(http, "yolo")
    http.delete("/models/yolo/versions/1")
    assert code(push(http, "yolo", _files(2.0), parents=["yolo:1"]).answer) == (410, "VERSION_TRASHED")


def test_only_the_message_of_a_version_changes(http):
    before = push(http, "yolo", message="a").version
    after = http.patch("/models/yolo/versions/1", json={"message": "b"}).json
    assert after == before | {"message": "b", "created": None}
    assert code(http.patch("/models/yolo/versions/1", json={"kind": "checkpoint"})) == (422, "INVALID_BODY")


def test_a_copy_to_another_namespace_uploads_nothing_and_keeps_lineage_metrics_and_tags(http):
    push(http, "vision/base")
    source = push(
        http, "vision/yolo", _files(2.0), parents=["vision/base"], metrics=[{"name": "mAP", "value": 0.5}],
        tags={"a": "b"}, params={"lr0": 0.1}, message="m",
    ).version  # fmt: skip
    answer = http.post("/models/vision/yolo/versions/1/copy", json={"to": "prod/yolo"})
    assert answer.status_code == 201, answer.text
    copied = answer.json
    same = ("digest", "metrics", "tags", "params", "message", "parents", "artifacts", "size")
    assert {key: copied[key] for key in same} == {key: source[key] for key in same}
    assert (copied["model"], copied["number"]) == ("prod/yolo", 1)
    again = http.post("/models/vision/yolo/versions/1/copy", json={"to": "prod/yolo"})
    assert (again.status_code, again.json["number"]) == (200, 1)


def test_a_copy_needs_the_right_to_publish_at_the_target(http, make_token):
    push(http, "vision/yolo")
    http.post("/namespaces", json={"name": "prod"})
    token = make_token("wil", "writer", "vision")
    refused = http.post("/models/vision/yolo/versions/1/copy", json={"to": "prod/yolo"}, token=token)
    assert code(refused)[0] == 404


def test_a_copy_of_a_copy_has_its_bytes_in_its_own_namespace(http, app):
    push(http, "a/m")
    http.post("/models/a/m/versions/1/copy", json={"to": "b/m"})
    with app.extensions["registry"].database.transaction(read_only=True) as session:
        rows = session.execute(text("SELECT namespace_id, sha256 FROM segments ORDER BY namespace_id")).all()
    assert len({row.namespace_id for row in rows}) == 2
    assert {row.sha256 for row in rows} == {format_digest(rows[0].sha256)[7:]}
    assert len(http.get("/models/b/m/versions/1/artifacts/model.safetensors?redirect=0").data) == len(weights())
