"""Rows for tests that need a version to be there and not how it got there."""

import hashlib
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import Event, Model, Version
from registry.domain.names import parse_model
from registry.services import models, namespaces
from registry.services.actors import SYSTEM
from tests.support.world import T0


def make_model(session: Session, name: str = "default/m") -> Model:
    """The model, empty; its namespace and it are created if new."""
    parsed = parse_model(name)
    namespaces.ensure_for_push(session, SYSTEM, parsed.namespace, now=T0)
    return models.ensure(session, SYSTEM, parsed, now=T0)


def make_version(session: Session, model: Model, **columns: Any) -> Version:
    """The next version of a model: a ready release unless told otherwise."""
    model.last_version += 1
    digest = hashlib.sha256(f"{model.id}:{model.last_version}".encode()).hexdigest()
    if columns.get("state") == "trashed":
        columns |= {"trashed_at": T0, "trashed_by": "system"}
    defaults = {"digest": digest, "push_key": digest, "kind": "release", "integrity": "verified", "created_by": "ana"}
    version = Version(
        model_id=model.id,
        number=model.last_version,
        params={},
        class_names=[],
        created_at=T0,
        **(defaults | columns),
    )
    version.model = model
    session.add(version)
    session.flush()
    return version


def make_versions(session: Session, model: Model, count: int) -> list[Version]:
    """The next `count` versions."""
    return [make_version(session, model) for _ in range(count)]


def events(session: Session, *actions: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Action, subject and detail of what was recorded, oldest first; only these actions."""
    rows = session.scalars(select(Event).where(Event.action.in_(actions)).order_by(Event.chain, Event.seq))
    return [(row.action, row.subject, row.detail) for row in rows]
