"""Metrics: numbers measured on a version. Added at any time, before it is published or years later, never edited."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from sqlalchemy import insert, select, tuple_
from sqlalchemy.orm import Session

from registry.db.tables import Metric, Version
from registry.domain.access import Permission
from registry.domain.audit import Action
from registry.domain.digest import parse_digest
from registry.domain.names import check_dataset_name, check_label, check_metric_name, check_split, shown
from registry.domain.references import InvalidDatasetError, InvalidMetricError, check_metric_value
from registry.services import audit, models, policies, versions
from registry.services.actors import Actor

_NAMED = 20  # names that an event lists


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number as measured. `dataset_digest` is written `sha256:<hex>`."""

    name: str
    value: float
    step: int | None = None
    dataset: str | None = None
    dataset_digest: str | None = None
    split: str | None = None
    slice: str | None = None
    evaluator: str | None = None
    sample_count: int | None = None


def record(
    session: Session,
    actor: Actor,
    version: Version,
    measured: Sequence[Measurement],
    *,
    now: datetime,
    skip_known: bool = False,
) -> int:
    """Add metrics to a ready version and give how many were added.

    `skip_known` leaves out what is recorded already in every respect, so that a repeated push adds nothing twice.
    Raises InvalidMetricError, InvalidDatasetError, InvalidDigestError, InvalidLabelError, VersionTrashedError,
    VersionPurgedError or PermissionDeniedError.
    """
    name = models.full_name(version.model)
    actor.check(Permission.METRIC_RECORD, name)
    versions.live(version)
    fresh = [_checked(each) for each in measured]
    if skip_known:
        fresh = _unknown(session, version, fresh)
    if not fresh:
        return 0
    rows = [asdict(each) | {"version_id": version.id, "recorded_by": actor.name, "recorded_at": now} for each in fresh]
    session.execute(insert(Metric), rows)
    detail = {"count": len(fresh), "names": sorted({each.name for each in fresh})[:_NAMED]}
    subject = versions.name_of(version)
    policies.evidence_changed(session, version)
    audit.record(session, actor, Action.METRIC_RECORD, subject, detail, chain=name.namespace, now=now)
    return len(fresh)


def page_of_metrics(
    session: Session,
    version: Version,
    *,
    after: tuple[str, int] | None,
    limit: int,
    name: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
) -> list[Metric]:
    """Metrics by name and then in the order they were recorded, `limit + 1` at most."""
    query = select(Metric).where(Metric.version_id == version.id)
    for column, wanted in ((Metric.name, name), (Metric.dataset, dataset), (Metric.split, split)):
        if wanted is not None:
            query = query.where(column == wanted)
    if after is not None:
        query = query.where(tuple_(Metric.name, Metric.id) > after)
    return list(session.scalars(query.order_by(Metric.name, Metric.id).limit(limit + 1)))


def _checked(measured: Measurement) -> Measurement:
    """The same with the digest's bare digits, if every part keeps the rules."""
    check_metric_value(measured.value, name=check_metric_name(measured.name))
    if measured.dataset is not None:
        check_dataset_name(measured.dataset)
    elif measured.dataset_digest is not None:
        raise InvalidDatasetError(f"Metric {shown(measured.name)} has a dataset's digest without its name.")
    if measured.split is not None:
        check_split(measured.split)
    if measured.slice is not None:
        check_label(measured.slice, "slice")
    if measured.evaluator is not None:
        check_label(measured.evaluator, "evaluator")
    if measured.sample_count is not None and measured.sample_count < 0:
        raise InvalidMetricError(f"Metric {shown(measured.name)} has a negative sample count.", metric=measured.name)
    digest = parse_digest(measured.dataset_digest) if measured.dataset_digest is not None else None
    return replace(measured, value=float(measured.value), dataset_digest=digest)


def _unknown(session: Session, version: Version, measured: list[Measurement]) -> list[Measurement]:
    names = sorted({each.name for each in measured})
    known = {_of(row) for row in session.scalars(
        select(Metric).where(Metric.version_id == version.id, Metric.name.in_(names))
    )}  # fmt: skip
    return [each for each in dict.fromkeys(measured) if each not in known]


def _of(row: Metric) -> Measurement:
    return Measurement(
        name=row.name,
        value=row.value,
        step=row.step,
        dataset=row.dataset,
        dataset_digest=row.dataset_digest,
        split=row.split,
        slice=row.slice,
        evaluator=row.evaluator,
        sample_count=row.sample_count,
    )
