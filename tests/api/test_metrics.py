import pytest

from tests.support.factories import make_model, make_version
from tests.support.world import code


@pytest.fixture(autouse=True)
def model(app, database):
    with database.transaction() as session:
        found = make_model(session, "vision/yolo")
        make_version(session, found)
        make_version(session, found, state="trashed")


METRICS = "/models/vision/yolo/versions/1/metrics"
WHOLE = {
    "name": "metrics/mAP50-95(B)", "value": 0.42, "step": 100, "dataset": "coco",
    "dataset_digest": f"sha256:{'ab' * 32}", "split": "val",
    "slice": "small", "evaluator": "coco-eval", "sample_count": 5000,
}  # fmt: skip


def test_metrics_are_added_and_listed_with_all_that_was_said_of_them(http):
    added = http.post(METRICS, json={"metrics": [WHOLE, {"name": "loss", "value": 1}]})
    assert (added.status_code, added.json) == (201, {"added": 2})
    loss, accuracy = http.items(METRICS)
    assert accuracy.items() >= WHOLE.items()
    assert accuracy["recorded_by"] == "admin"
    assert (loss["value"], loss["dataset"], loss["dataset_digest"]) == (1.0, None, None)


def test_metrics_come_in_pages_and_by_filter(http):
    measured = [{"name": name, "value": value, "dataset": "coco", "split": split}
                for value in range(3) for name in ("b", "a") for split in ("val", "test")]  # fmt: skip
    http.post(METRICS, json={"metrics": measured})
    items = http.items(METRICS, limit=5)
    assert [item["name"] for item in items] == ["a"] * 6 + ["b"] * 6
    filtered = http.items(f"{METRICS}?name=b&dataset=coco&split=val", limit=2)
    assert [item["value"] for item in filtered] == [0, 1, 2]
    assert http.items(f"{METRICS}?name=c") == []


@pytest.mark.parametrize(
    ("measured", "refusal"),
    [
        ({"name": "loss"}, (422, "INVALID_BODY")),
        ({"name": "loss", "value": "much"}, (422, "INVALID_BODY")),
        ({"name": "loss", "value": float("nan")}, (422, "INVALID_BODY")),
        ({"name": "loss", "value": 1, "sample_count": -1}, (422, "INVALID_BODY")),
        ({"name": " loss", "value": 1}, (422, "INVALID_LABEL")),
        ({"name": "loss", "value": 1, "slice": "\0"}, (422, "INVALID_LABEL")),
        ({"name": "loss", "value": 1, "dataset": "a=b"}, (422, "INVALID_LABEL")),
        ({"name": "loss", "value": 1, "dataset_digest": f"sha256:{'ab' * 32}"}, (422, "INVALID_DATASET")),
    ],
)
def test_one_malformed_metric_refuses_them_all(http, measured, refusal):
    assert code(http.post(METRICS, json={"metrics": [{"name": "fine", "value": 1}, measured]})) == refusal
    assert http.items(METRICS) == []


def test_a_malformed_filter_or_cursor_is_refused(http):
    assert code(http.get(f"{METRICS}?name=%00")) == (422, "INVALID_LABEL")
    assert code(http.get(f"{METRICS}?split=a:b")) == (422, "INVALID_LABEL")
    assert code(http.get(f"{METRICS}?cursor=WzFd")) == (422, "INVALID_CURSOR")


def test_a_version_in_the_trash_takes_no_metrics_and_shows_its_own(http):
    trashed = METRICS.replace("/1/", "/2/")
    assert code(http.post(trashed, json={"metrics": [WHOLE]})) == (410, "VERSION_TRASHED")
    assert http.items(trashed) == []


def test_readers_read_and_writers_record(http, make_token):
    reader, writer = make_token("ana", "reader", "vision"), make_token("bob", "writer", "vision")
    assert code(http.post(METRICS, json={"metrics": [WHOLE]}, token=reader)) == (403, "PERMISSION_DENIED")
    assert http.post(METRICS, json={"metrics": [WHOLE]}, token=writer).status_code == 201
    assert http.items(METRICS, token=reader)[0]["recorded_by"] == "bob"
