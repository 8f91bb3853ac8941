"""`…/versions/{number}/metrics`: numbers measured on a version, added and never edited."""

from http import HTTPStatus

from flask import Blueprint, Response, request

from registry import wire
from registry.api.operation import PAGED, Parameter, operation
from registry.db.session import now
from registry.db.tables import Metric
from registry.domain.access import Permission
from registry.domain.digest import format_digest
from registry.domain.names import ModelName, check_dataset_name, check_metric_name, check_split
from registry.request import actor, answer, body, cursor, next_cursor, page, page_limit, requires, transaction
from registry.services import metrics, versions
from registry.services.metrics import Measurement

bp = Blueprint("metrics", __name__)

_METRICS = "/models/<model:model>/versions/<int:number>/metrics"


@bp.get(_METRICS)
@requires(Permission.METRIC_READ)
@operation(
    "List a version's metrics",
    answers={200: wire.Page[wire.MetricOut]},
    query=(
        *PAGED,
        Parameter("name", "Only this metric."),
        Parameter("dataset", "Only what was measured on this dataset."),
        Parameter("split", "Only what was measured on this split."),
    ),
)
def index(model: ModelName, number: int) -> Response:
    """One page, by name and then in the order they were recorded."""
    limit, after = page_limit(), cursor(str, int)
    name, dataset, split = (request.args.get(key) for key in ("name", "dataset", "split"))
    with transaction(read_only=True) as session:
        version = versions.find(session, actor(), model, number, Permission.METRIC_READ)
        rows = metrics.page_of_metrics(
            session,
            version,
            after=after,
            limit=limit,
            name=check_metric_name(name) if name is not None else None,
            dataset=check_dataset_name(dataset) if dataset is not None else None,
            split=check_split(split) if split is not None else None,
        )
        following = next_cursor(rows, limit, lambda metric: (metric.name, metric.id))
        return page(wire.Page[wire.MetricOut](items=[_shape(row) for row in rows], next=following))


@bp.post(_METRICS)
@requires(Permission.METRIC_RECORD)
@operation("Add metrics to a version", body=wire.MetricsIn, answers={201: wire.CountOut}, refuses=(410,))
def record(model: ModelName, number: int) -> Response:
    """What is recorded already stays as it is."""
    asked = body(wire.MetricsIn)
    with transaction() as session:
        version = versions.find(session, actor(), model, number, Permission.METRIC_RECORD)
        measured = [Measurement(**each.model_dump()) for each in asked.metrics]
        added = metrics.record(session, actor(), version, measured, now=now(session))
        return answer(wire.CountOut(added=added), HTTPStatus.CREATED)


def _shape(row: Metric) -> wire.MetricOut:
    return wire.MetricOut(
        name=row.name,
        value=row.value,
        step=row.step,
        dataset=row.dataset,
        dataset_digest=format_digest(row.dataset_digest) if row.dataset_digest else None,
        split=row.split,
        slice=row.slice,
        evaluator=row.evaluator,
        sample_count=row.sample_count,
        recorded_by=row.recorded_by,
        recorded_at=row.recorded_at,
    )
