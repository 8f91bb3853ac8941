"""A registry with ten thousand versions, made by inserting rows: pushing them is another benchmark."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from benchmarks.stack import TOKEN, migrated
from registry.db.session import Database
from registry.db.tables import LineageEdge, Metric, Model, Pointer, Promotion, Version
from registry.domain.audit import Action
from registry.domain.names import parse_model
from registry.services import accounts, audit, models, namespaces
from registry.services.actors import SYSTEM

MODEL = "vision/yolo11n"
HELD = 5_000
"""The version in production."""

_BEGAN = datetime(2026, 1, 2, tzinfo=UTC)
_BATCH = 1_000


@contextmanager
def filled(url: str, count: int, *, everything: bool = False) -> Iterator[Database]:
    """A migrated database with `count` versions of MODEL, one of them in production.

    With `everything` there are also `count` metrics and children of that version, aliases, events, entries in the
    stage's history, and models.
    """
    with migrated(url) as database:
        with database.transaction() as session:
            accounts.bootstrap(session, TOKEN, now=_BEGAN)
            model = _model(session)
            held = min(HELD, count)
            _versions(session, model, count)
            session.add(_pointer(model, held, count if everything else 1))
            _promotions(session, model, held, count if everything else 1)
            if everything:
                _around(session, model, held, count)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
        yield database


def _model(session: Session) -> Model:
    name = parse_model(MODEL)
    namespaces.ensure_for_push(session, SYSTEM, name.namespace, now=_BEGAN)
    return models.ensure(session, SYSTEM, name, now=_BEGAN)


def _versions(session: Session, model: Model, count: int) -> None:
    for start in range(1, count + 1, _BATCH):
        session.execute(insert(Version), [
            {"model_id": model.id, "number": number, "digest": f"{number:064x}", "push_key": f"{number:064x}",
             "kind": "release", "state": "ready", "integrity": "verified", "health": "done", "is_pinned": False,
             "message": "", "size": 5_000_000, "params": {}, "class_names": [], "created_by": "ana",
             "created_at": _BEGAN}
            for number in range(start, min(start + _BATCH, count + 1))
        ])  # fmt: skip
    model.last_version = count
    session.flush()


def _pointer(model: Model, held: int, seq: int) -> Pointer:
    return Pointer(
        model_id=model.id, name="production", kind="stage", number=held, seq=seq, moved_by="ana", moved_at=_BEGAN
    )


def _promotions(session: Session, model: Model, held: int, count: int) -> None:
    session.flush()
    session.execute(insert(Promotion), [
        {"id": f"{seq:032x}", "model_id": model.id, "stage": "production", "kind": "promote", "state": "applied",
         "number": held, "previous": None, "seq": seq, "base_seq": seq - 1, "message": "", "gates": [],
         "requested_by": "ana", "requested_at": _BEGAN, "decided_at": _BEGAN}
        for seq in range(1, count + 1)
    ])  # fmt: skip


def _around(session: Session, model: Model, held: int, count: int) -> None:
    """As many of everything that has a list."""
    ids = session.scalars(select(Version.id).where(Version.model_id == model.id).order_by(Version.number)).all()
    parent = ids[held - 1]
    session.execute(insert(Metric), [
        {"version_id": parent, "name": "mAP50-95", "value": 0.5, "step": step, "recorded_by": "ana",
         "recorded_at": _BEGAN}
        for step in range(count)
    ])  # fmt: skip
    session.execute(insert(LineageEdge), [
        {"child_id": child, "relation": "finetune", "parent_id": parent, "parent_uri": None}
        for child in ids if child != parent
    ])  # fmt: skip
    session.execute(insert(Pointer), [
        {"model_id": model.id, "name": f"alias-{number}", "kind": "alias", "number": number, "seq": 1,
         "moved_by": "ana", "moved_at": _BEGAN}
        for number in range(1, count + 1)
    ])  # fmt: skip
    session.execute(insert(Model), [
        {"namespace_id": model.namespace_id, "name": f"m{number:06}", "folded": f"m{number:06}", "created_by": "ana",
         "description": "", "last_version": 0, "created_at": _BEGAN}
        for number in range(count)
    ])  # fmt: skip
    for number in range(count):
        audit.record(session, SYSTEM, Action.MODEL_UPDATE, MODEL, {"n": number}, chain="vision", now=_BEGAN)
