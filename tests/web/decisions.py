"""What a team has decided on the detector: a policy, one promotion that waits, one that failed, and one forced."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from registry.db.tables import Model, Promotion
from registry.domain.names import parse_model
from registry.services import deciding, models, policies, proposing
from registry.services.actors import Actor
from registry.services.policies import Change
from tests.support.world import T0
from tests.web import scene

PAGE: Final = f"/models/{scene.DETECTOR}/stages/production"
POLICY: Final[dict[str, Any]] = {
    "gates": [
        {"kind": "metric", "metric": "mAP50-95", "op": ">=", "value": 0.4, "dataset": "coco-val2017", "split": "val"},
        {"kind": "beats_incumbent", "metric": "mAP50-95", "direction": "max", "min_delta": 0.002},
        {"kind": "no_pickle"},
        {"kind": "verified"},
    ],
    "approvals": {"required": 2},
    "require_stage": {"stage": "staging", "soak_s": 3600},
}
ON_COCO: Final = {"dataset": "coco-val2017", "split": "val"}


def detector(session: Session, actor: Actor) -> Model:
    return models.find(session, actor, parse_model(scene.DETECTOR), scene.READ)


def ask(session: Session, actor: Actor, number: int, stage: str = "production", **more: Any) -> Promotion:
    """Ask for a promotion now, as the clock of pages goes."""
    model, now = detector(session, actor), datetime.now(UTC)
    return proposing.promote(session, actor, model, stage, number, stages=scene.STAGES, now=now, **more)


def set_policy(
    session: Session, actor: Actor, document: dict[str, Any] | None, stage: str = "production", **more: Any
) -> None:
    change = Change(document, **more)
    now = T0 + timedelta(hours=144)
    policies.set_for_model(session, actor, detector(session, actor), stage, change, stages=scene.STAGES, now=now)


def fill(session: Session, admin: Actor, make_actor: Callable[..., Actor]) -> str:
    """Decide; gives the id of the promotion of version 6 that lacks one of two approvals."""
    rita, pat = make_actor("rita", "promoter", "vision"), make_actor("pat", "promoter", "vision")
    set_policy(session, admin, {"gates": POLICY["gates"][2:]}, message="no pickles where customers are")
    set_policy(session, admin, POLICY, message="two people look at every model that reaches a street")
    ask(session, rita, 3, message="the night scenes again")
    why = "The vendor's camera driver broke on 6; 5 is what the field team has tested."
    ask(session, admin, 5, "staging", kind="force", message=why)
    waiting = ask(session, rita, 6, message="Better on every class, above all at night.")
    agreed = "Looked at 200 frames of the night set, no regressions."
    deciding.approve(session, pat, waiting.id, stages=scene.STAGES, now=datetime.now(UTC), comment=agreed)
    return waiting.id
