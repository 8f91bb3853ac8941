import math
from dataclasses import replace
from datetime import timedelta

import pytest

from registry.domain.digest import InvalidDigestError
from registry.domain.names import InvalidLabelError
from registry.domain.references import InvalidDatasetError, InvalidMetricError
from registry.services import metrics, versions
from registry.services.actors import PermissionDeniedError
from registry.services.metrics import Measurement
from tests.support.factories import events, make_model, make_version
from tests.support.world import T0

HEX = "ab" * 32
WHOLE = Measurement("mAP50-95", 0.42, 100, "coco", f"sha256:{HEX}", "val", "small objects", "coco-eval 2.0", 5_000)


@pytest.fixture
def version(session):
    return make_version(session, make_model(session))


def recorded(session, version, **filters):
    return metrics.page_of_metrics(session, version, after=None, limit=1_000, **filters)


def test_a_metric_is_kept_with_all_that_was_said_of_it(session, admin, version):
    assert metrics.record(session, admin, version, [WHOLE], now=T0) == 1
    [row] = recorded(session, version)
    assert metrics._of(row) == replace(WHOLE, dataset_digest=HEX)
    assert (row.recorded_by, row.recorded_at) == ("admin", T0)


def test_recording_adds_and_never_edits(session, admin, version):
    metrics.record(session, admin, version, [Measurement("loss", 2.0)], now=T0)
    metrics.record(session, admin, version, [Measurement("loss", 1.0)], now=T0 + timedelta(hours=1))
    assert [row.value for row in recorded(session, version)] == [2.0, 1.0]
    assert versions.surroundings(session, admin, [version]).metrics == {version.id: {"loss": 1.0}}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_cannot_be_compared_is_refused(session, admin, version, value):
    with pytest.raises(InvalidMetricError):
        metrics.record(session, admin, version, [Measurement("loss", 1.0), Measurement("loss", value)], now=T0)
    assert recorded(session, version) == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": ""}, InvalidLabelError),
        ({"dataset": "a:b"}, InvalidLabelError),
        ({"split": "a=b"}, InvalidLabelError),
        ({"slice": " "}, InvalidLabelError),
        ({"evaluator": "\0"}, InvalidLabelError),
        ({"dataset_digest": HEX}, InvalidDigestError),
        ({"dataset": None}, InvalidDatasetError),
        ({"sample_count": -1}, InvalidMetricError),
    ],
)
def test_each_part_of_a_metric_keeps_its_rule(session, admin, version, change, error):
    with pytest.raises(error):
        metrics.record(session, admin, version, [replace(WHOLE, **change)], now=T0)
    assert recorded(session, version) == []


def test_a_repeated_push_adds_only_what_is_new_in_some_respect(session, admin, version):
    metrics.record(session, admin, version, [WHOLE], now=T0)
    others = [replace(WHOLE, value=0.43), replace(WHOLE, split="test"), Measurement("loss", 1.0)]
    pushed = [WHOLE, *others, others[0]]
    assert metrics.record(session, admin, version, pushed, now=T0, skip_known=True) == 3
    assert metrics.record(session, admin, version, pushed, now=T0, skip_known=True) == 0
    assert len(recorded(session, version)) == 4
    assert len(events(session, "metric:record")) == 2


def test_recording_is_one_event_with_a_bounded_list_of_names(session, admin, version):
    metrics.record(session, admin, version, [Measurement(f"m{index:03}", 1.0) for index in range(300)], now=T0)
    [(_, subject, detail)] = events(session, "metric:record")
    assert (subject, detail["count"], len(detail["names"])) == ("default/m:1", 300, 20)


def test_metrics_are_listed_by_name_and_then_as_they_came_in_pages(session, admin, version):
    measured = [Measurement(name, float(value)) for value in range(2) for name in ("b", "a")]
    metrics.record(session, admin, version, measured, now=T0)
    rows = metrics.page_of_metrics(session, version, after=None, limit=2)
    assert [(row.name, row.value) for row in rows] == [("a", 0.0), ("a", 1.0), ("b", 0.0)]
    rest = metrics.page_of_metrics(session, version, after=(rows[1].name, rows[1].id), limit=2)
    assert [(row.name, row.value) for row in rest] == [("b", 0.0), ("b", 1.0)]


def test_metrics_are_filtered_by_name_dataset_and_split(session, admin, version):
    measured = [Measurement("acc", 1.0, dataset=dataset, split=split) for dataset in "xy" for split in ("val", "test")]
    metrics.record(session, admin, version, [*measured, Measurement("loss", 1.0)], now=T0)
    assert len(recorded(session, version, name="acc")) == 4
    assert len(recorded(session, version, dataset="x")) == 2
    assert len(recorded(session, version, name="acc", dataset="x", split="val")) == 1


def test_a_version_in_the_trash_takes_no_metrics(session, admin, version):
    trashed = make_version(session, version.model, state="trashed")
    with pytest.raises(versions.VersionTrashedError):
        metrics.record(session, admin, trashed, [WHOLE], now=T0)


def test_a_reader_records_nothing(session, version, make_actor):
    with pytest.raises(PermissionDeniedError):
        metrics.record(session, make_actor("ana", "reader"), version, [WHOLE], now=T0)
