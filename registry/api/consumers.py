"""`/models/{name}/consumers`: which processes follow a reference of the model, and what each runs."""

from http import HTTPStatus

from flask import Blueprint, Response

from registry import wire
from registry.api.operation import PAGED, operation
from registry.db.session import now
from registry.db.tables import Consumer
from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import (
    actor,
    answer,
    body,
    cursor,
    next_cursor,
    page,
    page_limit,
    requires,
    transaction,
)
from registry.services import consumers, models
from registry.services.consumers import LEASE, Report

bp = Blueprint("consumers", __name__)


@bp.get("/models/<model:model>/consumers")
@requires(Permission.CONSUMER_READ)
@operation("List who runs what of a model", answers={200: wire.Page[wire.ConsumerOut]}, query=PAGED)
def index(model: ModelName) -> Response:
    """One page by name, of those that have said something within their lease."""
    limit, after = page_limit(), cursor(str, str)
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.CONSUMER_READ)
        key = (after[0], after[1]) if after else None
        rows = consumers.page_of_consumers(session, row, after=key, limit=limit, now=now(session))
        following = next_cursor(rows, limit, lambda each: (each.name, each.id))
        users, name = consumers.names_of_users(session, rows), models.full_name(row)
        items = [_shape(each, name, users.get(each.user_id, "")) for each in rows]
        return page(wire.Page[wire.ConsumerOut](items=items, next=following))


@bp.post("/models/<model:model>/consumers")
@requires(Permission.CONSUMER_REPORT)
@operation("Register a consumer", body=wire.ConsumerIn, answers={201: wire.ConsumerOut})
def create(model: ModelName) -> Response:
    """It is forgotten when it says nothing for `lease_s` seconds."""
    asked = body(wire.ConsumerIn)
    with transaction() as session:
        row = models.find(session, actor(), model, Permission.CONSUMER_REPORT)
        consumer = consumers.register(
            session, actor(), row, asked.name, follows=asked.follows, report=_report(asked), now=now(session)
        )
        return answer(_shape(consumer, models.full_name(row), actor().name), HTTPStatus.CREATED)


@bp.put("/consumers/<consumer>")
@requires(Permission.CONSUMER_REPORT)
@operation("Say what a consumer runs", body=wire.ConsumerReport, answers={200: wire.ConsumerOut})
def report(consumer: str) -> Response:
    """It also begins the lease anew; whoever registered it says so."""
    asked = body(wire.ConsumerReport)
    with transaction() as session:
        row, model = consumers.renew(session, actor(), consumer, report=_report(asked), now=now(session))
        return answer(_shape(row, models.full_name(model), actor().name))


@bp.delete("/consumers/<consumer>")
@requires(Permission.CONSUMER_REPORT)
@operation("Sign a consumer off", answers={204: None})
def delete(consumer: str) -> Response:
    """As if its lease had ended."""
    with transaction() as session:
        consumers.remove(session, actor(), consumer, now=now(session))
        return Response(status=HTTPStatus.NO_CONTENT)


def _report(asked: wire.ConsumerReport) -> Report:
    return Report(asked.number, asked.seq, asked.state, asked.detail)


def _shape(row: Consumer, model: ModelName, by: str) -> wire.ConsumerOut:
    return wire.ConsumerOut.model_validate({
        "id": row.id,
        "model": str(model),
        "name": row.name,
        "follows": row.follows,
        "number": row.number,
        "seq": row.seq,
        "state": row.state,
        "detail": row.detail,
        "by": by,
        "started_at": row.started_at,
        "seen_at": row.seen_at,
        "expires_at": row.expires_at,
        "lease_s": int(LEASE.total_seconds()),
    })  # fmt: skip
