"""`/webhooks`: where events are sent, and what became of each. A secret is shown once, when it is made."""

from datetime import datetime, timedelta
from http import HTTPStatus

from flask import Blueprint, Response, request

from registry import wire
from registry.api.operation import PAGED, Parameter, operation
from registry.db.session import now
from registry.db.tables import Delivery, DeliveryAttempt, Event
from registry.domain import webhooks as rules
from registry.domain.access import Permission
from registry.domain.names import DEFAULT_NAMESPACE, ModelName, parse_model
from registry.domain.targets import Allowed
from registry.request import (
    Session,
    actor,
    answer,
    body,
    choice_parameter,
    config,
    cursor,
    next_cursor,
    page,
    page_limit,
    requires,
    transaction,
)
from registry.services import webhooks
from registry.services.webhooks import Found

bp = Blueprint("webhooks", __name__)

_ONE = "/webhooks/<webhook>"
_STATES = ("pending", "delivered", "dead")


@bp.get("/webhooks")
@requires(Permission.WEBHOOK_MANAGE)
@operation(
    "List webhooks",
    answers={200: wire.Page[wire.WebhookOut]},
    query=(
        *PAGED,
        Parameter("namespace", "Whose, with those of its models.", {"type": "string", "default": DEFAULT_NAMESPACE}),
        Parameter("model", "Only those of this model; instead of a namespace."),
    ),
    refuses=(404, 410),
)
def index() -> Response:
    """One page. Whoever sets a namespace's policies manages its webhooks."""
    limit, after, model = page_limit(), cursor(str), request.args.get("model")
    owner = parse_model(model) if model is not None else request.args.get("namespace", DEFAULT_NAMESPACE)
    with transaction(read_only=True) as session:
        rows = webhooks.page_of_webhooks(session, actor(), owner, after=after[0] if after else None, limit=limit)
        following = next_cursor(rows, limit, lambda found: (found.row.id,))
        moment = now(session)
        items = [wire.WebhookOut.model_validate(_facts(found, moment)) for found in rows]
        return page(wire.Page[wire.WebhookOut](items=items, next=following))


@bp.post("/webhooks")
@requires(Permission.WEBHOOK_MANAGE)
@operation("Have events sent to a URL", body=wire.WebhookIn, answers={201: wire.NewWebhookOut}, refuses=(404, 410))
def create() -> Response:
    """Of a namespace or of one model. The secret in the answer verifies what is sent.

    A repetition under the same Idempotency-Key shows the webhook with an empty secret.
    """
    asked = body(wire.WebhookIn)
    owner: str | ModelName = parse_model(asked.model) if asked.model is not None else asked.namespace or ""
    with transaction() as session:
        moment = now(session)
        found, secret = webhooks.create(
            session,
            actor(),
            owner,
            asked.url,
            allowed=_allowed(),
            now=moment,
            actions=asked.actions,
            description=asked.description,
        )
        shape = wire.NewWebhookOut.model_validate({**_facts(found, moment), "secret": ""})
        response = answer(shape, HTTPStatus.CREATED)  # what a retry is told, and what is stored for it
    return _with_secret(response, shape, secret)


@bp.get(_ONE)
@requires(Permission.WEBHOOK_MANAGE)
@operation("Show a webhook", answers={200: wire.WebhookOut})
def show(webhook: str) -> Response:
    """With how much is pending and dead."""
    with transaction(read_only=True) as session:
        return answer(_rendered(session, webhooks.find(session, actor(), webhook)))


@bp.patch(_ONE)
@requires(Permission.WEBHOOK_MANAGE)
@operation("Change a webhook", body=wire.WebhookPatch, answers={200: wire.WebhookOut})
def update(webhook: str) -> Response:
    """Also enables one again whose receiver had said that it was gone."""
    asked = body(wire.WebhookPatch)
    with transaction() as session:
        found = webhooks.update(
            session,
            actor(),
            webhook,
            allowed=_allowed(),
            now=now(session),
            url=asked.url,
            actions=asked.actions,
            description=asked.description,
            enabled=asked.enabled,
        )
        return answer(_rendered(session, found))


@bp.delete(_ONE)
@requires(Permission.WEBHOOK_MANAGE)
@operation("Delete a webhook", answers={200: wire.WebhookOut})
def delete(webhook: str) -> Response:
    """Nothing more is sent, also not what is pending."""
    with transaction() as session:
        found = webhooks.delete(session, actor(), webhook, now=now(session))
        return answer(_rendered(session, found))


@bp.post(f"{_ONE}/rotate")
@requires(Permission.WEBHOOK_MANAGE)
@operation("Give a webhook a new secret", body=wire.RotateIn, answers={200: wire.NewWebhookOut})
def rotate(webhook: str) -> Response:
    """Until the overlap ends each message carries a signature of the new and one of the old secret."""
    asked = body(wire.RotateIn)
    with transaction() as session:
        found, secret = webhooks.rotate(
            session, actor(), webhook, overlap=timedelta(seconds=asked.overlap_s), now=now(session)
        )
        shape = wire.NewWebhookOut.model_validate({**_facts(found, now(session)), "secret": ""})
        response = answer(shape)
    return _with_secret(response, shape, secret)


@bp.post(f"{_ONE}/test")
@requires(Permission.WEBHOOK_MANAGE)
@operation("Send a test event", answers={201: wire.DeliveryOut})
def test(webhook: str) -> Response:
    """A real `webhook:test` event, to this webhook alone, past whatever waits. Its delivery shows what came of it."""
    with transaction() as session:
        delivery = webhooks.test(session, actor(), webhook, now=now(session))
        return answer(_delivery(session, webhooks.find(session, actor(), webhook), delivery.id), HTTPStatus.CREATED)


@bp.get(f"{_ONE}/deliveries")
@requires(Permission.WEBHOOK_MANAGE)
@operation(
    "List what was sent to a webhook",
    answers={200: wire.Page[wire.DeliveryOut]},
    query=(*PAGED, Parameter("state", "Only those in this state.", {"type": "string", "enum": list(_STATES)})),
)
def index_deliveries(webhook: str) -> Response:
    """One page with every attempt, the newest event first. What ended is kept for 30 days."""
    limit, before = page_limit(), cursor(int)
    state = choice_parameter("state", *_STATES)
    with transaction(read_only=True) as session:
        found = webhooks.find(session, actor(), webhook)
        rows = webhooks.page_of_deliveries(
            session, found, state=state, before=before[0] if before else None, limit=limit
        )
        following = next_cursor(rows, limit, lambda row: (row[0].seq,))
        log = webhooks.attempts(session, [delivery.id for delivery, _ in rows])
        items = [_logged(delivery, event, log.get(delivery.id, [])) for delivery, event in rows]
        return page(wire.Page[wire.DeliveryOut](items=items, next=following))


@bp.get(f"{_ONE}/deliveries/<delivery>")
@requires(Permission.WEBHOOK_MANAGE)
@operation("Show a delivery", answers={200: wire.DeliveryOut})
def show_delivery(webhook: str, delivery: str) -> Response:
    """With every attempt."""
    with transaction(read_only=True) as session:
        return answer(_delivery(session, webhooks.find(session, actor(), webhook), delivery))


@bp.post(f"{_ONE}/replay")
@requires(Permission.WEBHOOK_MANAGE)
@operation("Send deliveries again", body=wire.ReplayIn, answers={200: wire.ReplayOut})
def replay(webhook: str) -> Response:
    """One, or all that are dead, under the same ids. They delay nothing new; one that is pending is tried at once."""
    asked = body(wire.ReplayIn)
    with transaction() as session:
        count = webhooks.replay(session, actor(), webhook, asked.delivery, now=now(session))
        return answer(wire.ReplayOut(replayed=count))


def _allowed() -> Allowed:
    return Allowed.of(config().webhook_allow)


def _with_secret(response: Response, shape: wire.NewWebhookOut, secret: str) -> Response:
    response.set_data(shape.model_copy(update={"secret": secret}).model_dump_json())
    response.headers["Cache-Control"] = "no-store"
    return response


def _rendered(session: Session, found: Found) -> wire.WebhookOut:
    return wire.WebhookOut.model_validate(_facts(found, now(session)))


def _facts(found: Found, moment: datetime) -> dict[str, object]:
    row = found.row
    return {
        "id": row.id,
        "namespace": found.namespace,
        "model": found.model,
        "url": row.url,
        "actions": row.actions,
        "description": row.description,
        "enabled": row.is_enabled,
        "by": row.created_by,
        "created_at": row.created_at,
        "old_secret_until": rules.overlap_end(row.secrets, now=moment),
        "pending": found.counts.get("pending", 0),
        "dead": found.counts.get("dead", 0),
    }


def _delivery(session: Session, found: Found, delivery_id: str) -> wire.DeliveryOut:
    delivery, event = webhooks.find_delivery(session, found, delivery_id)
    return _logged(delivery, event, webhooks.attempts(session, [delivery_id]).get(delivery_id, []))


def _logged(delivery: Delivery, event: Event, attempts: list[DeliveryAttempt]) -> wire.DeliveryOut:
    return wire.DeliveryOut.model_validate({
        "id": delivery.id,
        "chain": delivery.chain,
        "seq": delivery.seq,
        "action": event.action,
        "subject": event.subject,
        "state": delivery.state,
        "created_at": delivery.created_at,
        "next_attempt_at": delivery.due_at if delivery.state == "pending" else None,
        "ended_at": delivery.ended_at,
        "attempts": [
            wire.AttemptOut(
                attempt=each.attempt,
                at=each.at,
                status=each.status,
                status_class=f"{each.status // 100}xx" if each.status is not None else None,
                latency_ms=each.latency_ms,
                error=each.error,
            )
            for each in attempts
        ],
    })  # fmt: skip
