"""A registry as a small team would fill it, for tests that look at pages."""

import hashlib
from datetime import timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from registry.db.tables import Artifact, LineageEdge, Model, Version
from registry.domain.access import Permission
from registry.domain.names import parse_model
from registry.services import grants, metrics, models, pointers, proposing, tags
from registry.services.actors import SYSTEM, Actor
from registry.services.metrics import Measurement
from registry.services.models import Objective
from tests.support.factories import make_model, make_version
from tests.support.world import T0

READ: Final = Permission.VERSION_READ
STAGES: Final = ("staging", "production")
DETECTOR: Final = "vision/yolo11n"
_MEASURED = ((0.371, 0.528), (0.389, 0.541), (0.394, 0.552), (0.412, 0.569), (0.409, 0.571), (0.421, 0.583))


def publish(session: Session, model: Model, size: int, path: str = "model.safetensors", **columns: Any) -> Version:
    """A version of one file."""
    version = make_version(session, model, size=size, **columns)
    add_artifact(session, version, path, size)
    return version


def add_artifact(session: Session, version: Version, path: str, size: int, **columns: Any) -> None:
    defaults = {"media_type": "application/octet-stream", "format": "safetensors", "header_metadata": {}}
    sha256 = hashlib.sha256(f"{version.digest}{path}".encode()).hexdigest()
    session.add(Artifact(version_id=version.id, path=path, size=size, sha256=sha256, **(defaults | columns)))


def derive(session: Session, child: Version, parent: Version | str, relation: str = "finetune") -> None:
    """An edge to a version, or to something elsewhere."""
    uri = parent if isinstance(parent, str) else None
    parent_id = None if isinstance(parent, str) else parent.id
    session.add(LineageEdge(child_id=child.id, relation=relation, parent_id=parent_id, parent_uri=uri))


def promote(
    session: Session, actor: Actor, model: Model, stage: str, number: int | None, *, hour: int, why: str
) -> None:
    """Move a stage, so many hours after the beginning."""
    now = T0 + timedelta(hours=hour)
    if number is None:
        proposing.demote(session, actor, model, stage, stages=STAGES, now=now, message=why)
    else:
        proposing.promote(session, actor, model, stage, number, stages=STAGES, now=now, message=why)


def fill(session: Session, actor: Actor) -> None:
    """Four models in two namespaces; `vision/yolo11n` has everything a page can show."""
    _detector(session, actor)
    encoder = make_model(session, "text/minilm-l6")
    models.update(session, actor, encoder, now=T0, description="Sentence embeddings for search.", objective=None)
    first = publish(session, encoder, 90_868_376, message="as published")
    second = publish(session, encoder, 90_868_376, message="pooler only", integrity="unverified")
    derive(session, second, first)
    derive(session, first, "hf://sentence-transformers/all-MiniLM-L6-v2", "convert")
    promote(session, actor, encoder, "staging", 2, hour=90, why="")
    make_model(session, "text/reranker")
    router = make_model(session, "default/router")
    publish(session, router, 18_250)


def _detector(session: Session, actor: Actor) -> None:
    model = make_model(session, DETECTOR)
    objective = Objective("mAP50-95", "max", dataset="coco-val2017", split="val")
    about = "Detects people, vehicles and signs on the street cameras. Retrained on what the annotators corrected."
    models.update(session, actor, model, now=T0, description=about, objective=objective)
    tags.set_on_model(session, actor, model, {"owner": "street-team", "licence": "AGPL-3.0", "card": ""}, now=T0)
    made: list[Version] = []
    for index, (strict, loose) in enumerate(_MEASURED):
        now = T0 + timedelta(hours=24 * index)
        kind = "checkpoint" if index == 4 else "release"
        version = publish(
            session, model, 5_613_764 + 4_096 * index, "best.safetensors", kind=kind, message=f"week {index + 1}"
        )
        version.created_at, version.params = now, {"lr0": 0.01, "epochs": 50, "freeze": 10, "optimizer": "AdamW"}
        derive(session, version, made[-1] if made else "https://example.org/yolo11n.pt")
        measured = [
            Measurement("mAP50-95", strict, dataset="coco-val2017", split="val", sample_count=5_000),
            Measurement("mAP50", loose, dataset="coco-val2017", split="val", sample_count=5_000),
            Measurement("latency_ms", 4.1 + index / 10, evaluator="bench-t4"),
        ]
        metrics.record(session, actor, version, measured, now=now)
        made.append(version)
    made[3].message = "Longer schedule, mosaic off for the last ten epochs; second pass over the night scenes."
    made[3].class_names = ["person", "bicycle", "car", "traffic light"]
    add_artifact(session, made[3], "optimizer.pt", 11_402_118, format="pytorch", is_pickle=True)
    tags.set_on_version(session, actor, made[3], {"dataset": "street-2026-01"}, now=T0)
    small = publish(session, model, 2_911_232, "model.onnx", variant="onnx-int8", message="for the edge boxes")
    small.created_at = T0 + timedelta(hours=150)
    derive(session, small, made[3], "quantize")
    for number, hour, why in ((1, 2, "first"), (2, 30, "better at night"), (4, 100, "beats 2 by 2.3 points")):
        promote(session, actor, model, "staging", number, hour=hour, why="")
        promote(session, actor, model, "production", number, hour=hour + 3, why=why)
    promote(session, actor, model, "staging", 6, hour=140, why="canary")
    pointers.point(session, actor, model, "edge", small.number, stages=STAGES, now=T0)


def hide(session: Session, name: str) -> Version:
    """A model that nobody but administrators may read."""
    return publish(session, make_model(session, name), 100)


def allow(session: Session, user: str, role: Any, name: str) -> None:
    """A role in the model's namespace."""
    grants.put(session, SYSTEM, parse_model(name).namespace, user, role=role, now=T0)
