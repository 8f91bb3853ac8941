"""Webhooks: where a namespace's or a model's events are sent, and with which secret they are signed."""

import re
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from registry.db.tables import Delivery, DeliveryAttempt, Event, Model, Namespace, Webhook
from registry.domain import webhooks as rules
from registry.domain.access import Permission
from registry.domain.audit import Action
from registry.domain.errors import ConflictError, NotFoundError
from registry.domain.names import ModelName, shown
from registry.domain.targets import Allowed, check_target, parse_target
from registry.services import audit, deliveries, models, namespaces
from registry.services.actors import Actor

MAX_WEBHOOKS = 50
"""A namespace's; each is looked at when an event is written."""
MAX_REPLAYED = 10_000

_ID = re.compile(r"[0-9a-f]{32}")
_MANAGE = Permission.WEBHOOK_MANAGE
_Row = tuple[Webhook, str, str | None]


class WebhookNotFoundError(NotFoundError):
    """There is no such webhook, or it was deleted, or it is another namespace's."""

    code = "WEBHOOK_NOT_FOUND"
    remedy = "See which webhooks there are with 'registry webhook list'."


class DeliveryNotFoundError(NotFoundError):
    """The webhook has no such delivery, or it ended so long ago that it was forgotten."""

    code = "DELIVERY_NOT_FOUND"
    remedy = "See what was sent with 'registry webhook deliveries ID'."


class TooManyWebhooksError(ConflictError):
    """The namespace has as many webhooks as it can have."""

    code = "TOO_MANY_WEBHOOKS"
    remedy = "Delete one that is not used, or send events from one receiver to the others."


class WebhookDisabledError(ConflictError):
    """The webhook is disabled, by hand or because its receiver said that it is gone."""

    code = "WEBHOOK_DISABLED"
    remedy = "Enable it with 'registry webhook update ID --enable'."


@dataclass(frozen=True, slots=True)
class Found:
    """A webhook with the names of what it belongs to, and how many deliveries it has in which state."""

    row: Webhook
    namespace: str
    model: str | None
    counts: dict[str, int]

    @property
    def owner(self) -> str:
        """The model or namespace whose events it is sent."""
        return self.model or self.namespace


def create(
    session: Session,
    actor: Actor,
    owner: str | ModelName,
    url: str,
    *,
    allowed: Allowed,
    now: datetime,
    actions: Sequence[str] = (),
    description: str = "",
) -> tuple[Found, str]:
    """Have events of a namespace or model sent to a URL. Gives the webhook and its secret, which is not shown again.

    Raises TargetRefusedError, UnknownActionError, TooManyWebhooksError, or as `models.find` and `namespaces.find`.
    """
    namespace, model = _owner(session, actor, owner)
    check_target(parse_target(url), allowed)
    count = select(func.count()).where(Webhook.namespace_id == namespace.id, Webhook.deleted_at.is_(None))
    if session.scalars(count).one() >= MAX_WEBHOOKS:
        raise TooManyWebhooksError(f"{namespace.name} has {MAX_WEBHOOKS} webhooks already.", limit=MAX_WEBHOOKS)
    secret = rules.new_secret(secrets.token_bytes(rules.SECRET_BYTES))
    webhook = Webhook(
        id=uuid.uuid4().hex,
        namespace_id=namespace.id,
        model_id=model.id if model is not None else None,
        url=url,
        actions=rules.check_actions(actions),
        description=description,
        secrets=rules.rotated([], secret, overlap=timedelta(0), now=now),
        is_enabled=True,
        created_by=actor.name,
        created_at=now,
    )
    session.add(webhook)
    found = Found(webhook, namespace.name, str(models.full_name(model)) if model is not None else None, {})
    _record(session, actor, Action.WEBHOOK_CREATE, found, now=now, to=_shown(url), actions=webhook.actions)
    return found, secret


def find(session: Session, actor: Actor, webhook_id: str, *, lock: bool = False) -> Found:
    """A webhook by its id. Raises WebhookNotFoundError, or PermissionDeniedError if its namespace can be read.

    `lock` leaves the key free: who holds the chain and queues a delivery must not wait for who waits for the chain.
    """
    query = _live().where(Webhook.id == webhook_id)
    rows = (
        _rows(session, query.with_for_update(of=Webhook, key_share=True) if lock else query)
        if _ID.fullmatch(webhook_id)
        else []
    )
    if not rows:
        raise _no_webhook(webhook_id)
    _, namespace, model = rows[0]
    try:
        if model is None:
            actor.check_namespace(_MANAGE, namespace)
        else:
            actor.check(_MANAGE, ModelName(namespace, model))
    except NotFoundError:
        raise _no_webhook(webhook_id) from None
    return _with_counts(session, rows)[0]


def page_of_webhooks(
    session: Session, actor: Actor, owner: str | ModelName, *, after: str | None, limit: int
) -> list[Found]:
    """Webhooks of a namespace and all its models, or of one model, by id; `limit + 1` at most. Raises as `create`."""
    namespace, model = _owner(session, actor, owner)
    query = _live().where(Webhook.namespace_id == namespace.id).order_by(Webhook.id).limit(limit + 1)
    if model is not None:
        query = query.where(Webhook.model_id == model.id)
    if after is not None:
        query = query.where(Webhook.id > after)
    return _with_counts(session, _rows(session, query))


def update(
    session: Session,
    actor: Actor,
    webhook_id: str,
    *,
    allowed: Allowed,
    now: datetime,
    url: str | None = None,
    actions: Sequence[str] | None = None,
    description: str | None = None,
    enabled: bool | None = None,
) -> Found:
    """Change a webhook; None leaves things as they are. What is pending for one that is disabled dies.

    Raises as `find` and `create`.
    """
    found = find(session, actor, webhook_id, lock=True)
    webhook, changed = found.row, dict[str, Any]()
    if url is not None and url != webhook.url:
        check_target(parse_target(url), allowed)
        webhook.url, changed["to"] = url, _shown(url)
    if actions is not None and rules.check_actions(actions) != webhook.actions:
        webhook.actions = changed["actions"] = rules.check_actions(actions)
    if description is not None and description != webhook.description:
        webhook.description = changed["description"] = description
    if enabled is not None and enabled != webhook.is_enabled:
        webhook.is_enabled = changed["enabled"] = enabled
    if changed:
        _record(session, actor, Action.WEBHOOK_UPDATE, found, now=now, **changed)
    if changed.get("enabled") is False:
        deliveries.give_up(session, webhook.id, now=now)
        return find(session, actor, webhook_id)
    return found


def rotate(session: Session, actor: Actor, webhook_id: str, *, overlap: timedelta, now: datetime) -> tuple[Found, str]:
    """Give a webhook a new secret; until the overlap ends messages carry a signature of the old one too.

    Raises as `find`.
    """
    found = find(session, actor, webhook_id, lock=True)
    secret = rules.new_secret(secrets.token_bytes(rules.SECRET_BYTES))
    found.row.secrets = rules.rotated(found.row.secrets, secret, overlap=overlap, now=now)
    _record(session, actor, Action.WEBHOOK_UPDATE, found, now=now, secret="rotated")  # noqa: S106 - says so, is none
    return found, secret


def delete(session: Session, actor: Actor, webhook_id: str, *, now: datetime) -> Found:
    """End a webhook; its secrets are forgotten, what is pending is not sent. Raises as `find`."""
    found = find(session, actor, webhook_id, lock=True)
    found.row.deleted_at, found.row.is_enabled, found.row.secrets = now, False, []
    _record(session, actor, Action.WEBHOOK_DELETE, found, now=now, to=_shown(found.row.url))
    deliveries.give_up(session, webhook_id, now=now)
    return found


def test(session: Session, actor: Actor, webhook_id: str, *, now: datetime) -> Delivery:
    """Send a real event to this webhook alone, past whatever waits. Raises as `find`, or WebhookDisabledError."""
    found = _enabled(session, actor, webhook_id)
    event = _record(session, actor, Action.WEBHOOK_TEST, found, now=now)
    return session.scalars(
        select(Delivery).where(Delivery.id == rules.message_id(webhook_id, event.chain, event.seq))
    ).one()


def replay(session: Session, actor: Actor, webhook_id: str, delivery_id: str | None, *, now: datetime) -> int:
    """Send one delivery again, or all dead ones, beside what is sent now. One that is pending is tried at once.

    Raises as `find`, WebhookDisabledError or DeliveryNotFoundError.
    """
    found = _enabled(session, actor, webhook_id)
    query = select(Delivery).where(Delivery.webhook_id == webhook_id).order_by(Delivery.seq).limit(MAX_REPLAYED)
    query = query.where(Delivery.state == "dead") if delivery_id is None else query.where(Delivery.id == delivery_id)
    rows = session.scalars(query).all()
    if delivery_id is not None and not rows:
        raise _no_delivery(delivery_id)
    if rows:
        which: dict[str, Any] = {"delivery": delivery_id} if delivery_id is not None else {"count": len(rows)}
        _record(session, actor, Action.WEBHOOK_UPDATE, found, now=now, replayed=which)
    return deliveries.requeue(session, rows, now=now)


def page_of_deliveries(
    session: Session, found: Found, *, state: str | None = None, before: int | None = None, limit: int
) -> list[tuple[Delivery, Event]]:
    """What was sent or is to be sent to a webhook, the newest event first; `limit + 1` at most."""
    query = _deliveries(found).order_by(Delivery.seq.desc()).limit(limit + 1)
    if state is not None:
        query = query.where(Delivery.state == state)
    if before is not None:
        query = query.where(Delivery.seq < before)
    return [(delivery, event) for delivery, event in session.execute(query).all()]


def find_delivery(session: Session, found: Found, delivery_id: str) -> tuple[Delivery, Event]:
    """One delivery of a webhook. Raises DeliveryNotFoundError."""
    row = session.execute(_deliveries(found).where(Delivery.id == delivery_id)).one_or_none()
    if row is None:
        raise _no_delivery(delivery_id)
    delivery, event = row
    return delivery, event


def attempts(session: Session, delivery_ids: Sequence[str]) -> dict[str, list[DeliveryAttempt]]:
    """The attempts of each delivery that has any, in order."""
    query = select(DeliveryAttempt).where(DeliveryAttempt.delivery_id.in_(delivery_ids))
    by_delivery: dict[str, list[DeliveryAttempt]] = {}
    for each in session.scalars(query.order_by(DeliveryAttempt.delivery_id, DeliveryAttempt.attempt)):
        by_delivery.setdefault(each.delivery_id, []).append(each)
    return by_delivery


def _owner(session: Session, actor: Actor, owner: str | ModelName) -> tuple[Namespace, Model | None]:
    if isinstance(owner, ModelName):
        model = models.find(session, actor, owner, _MANAGE)
        return model.namespace, model
    actor.check_namespace(_MANAGE, owner)
    return namespaces.find(session, actor, owner), None


def _enabled(session: Session, actor: Actor, webhook_id: str) -> Found:
    found = find(session, actor, webhook_id, lock=True)
    if not found.row.is_enabled:
        raise WebhookDisabledError(f"Webhook {webhook_id} is disabled.", webhook=webhook_id)
    return found


def _live() -> Select[Webhook, str, str]:
    return (
        select(Webhook, Namespace.name, Model.name)
        .join(Namespace, Namespace.id == Webhook.namespace_id)
        .outerjoin(Model, Model.id == Webhook.model_id)
        .where(Webhook.deleted_at.is_(None))
    )


def _deliveries(found: Found) -> Select[Delivery, Event]:
    on = (Event.chain == Delivery.chain) & (Event.seq == Delivery.seq)
    return select(Delivery, Event).join(Event, on).where(Delivery.webhook_id == found.row.id)


def _rows(session: Session, query: Select[Webhook, str, str]) -> list[_Row]:
    return [(webhook, namespace, model) for webhook, namespace, model in session.execute(query).all()]


def _with_counts(session: Session, rows: Sequence[_Row]) -> list[Found]:
    query = (
        select(Delivery.webhook_id, Delivery.state, func.count())
        .where(Delivery.webhook_id.in_([row[0].id for row in rows]), Delivery.state != "delivered")
        .group_by(Delivery.webhook_id, Delivery.state)
    )
    counts: dict[str, dict[str, int]] = {}
    for webhook_id, state, count in session.execute(query).all() if rows else ():
        counts.setdefault(webhook_id, {})[state] = count
    return [
        Found(webhook, namespace, f"{namespace}/{model}" if model is not None else None, counts.get(webhook.id, {}))
        for webhook, namespace, model in rows
    ]


def _record(session: Session, actor: Actor, action: Action, found: Found, *, now: datetime, **facts: Any) -> Event:
    detail = {"webhook": found.row.id, **facts}
    return audit.record(session, actor, action, found.owner, detail, chain=found.namespace, now=now)


def _shown(url: str) -> str:
    """What an event may say of a URL: path and query can be secrets."""
    return parse_target(url).origin


def _no_webhook(webhook_id: str) -> WebhookNotFoundError:
    return WebhookNotFoundError(f"There is no webhook {shown(webhook_id)}.", webhook=webhook_id)


def _no_delivery(delivery_id: str) -> DeliveryNotFoundError:
    return DeliveryNotFoundError(f"There is no delivery {shown(delivery_id)}.", delivery=delivery_id)
