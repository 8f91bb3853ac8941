"""The workflows that decide promotions without anybody asking: evidence arrived, a policy changed, time is over."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from dbos import DBOS

from registry.db.session import now
from registry.db.tables import Policy
from registry.jobs.workflows import Tools
from registry.services import automation, deciding
from registry.services.policies import CONSIDER, CONSIDER_STAGE

EXPIRE_PROMOTIONS: Final = "expire_promotions"
_A_RUN: Final = 100


def register(tools: Tools) -> dict[str, Callable[..., Any]]:
    """Declare the workflows to DBOS and give them by name."""
    stages = tools.config.stages

    @DBOS.step(name="consider", retries_allowed=True, max_attempts=10, interval_seconds=1.0)
    def consider(version_id: int) -> None:
        with tools.database.transaction() as session:
            automation.consider(session, version_id, stages=stages, now=now(session))

    @DBOS.workflow(name=CONSIDER)
    def consider_version(version_id: int) -> None:
        """More is known of a version: judge what is pending for it, and promote it if that is automatic."""
        consider(version_id)

    @DBOS.step(name="models_concerned", retries_allowed=True, max_attempts=10, interval_seconds=1.0)
    def models_concerned(policy_id: int) -> tuple[str, list[int]]:
        with tools.database.transaction(read_only=True) as session:
            return session.get_one(Policy, policy_id).stage, automation.concerned(session, policy_id)

    @DBOS.step(name="consider_one_stage", retries_allowed=True, max_attempts=10, interval_seconds=1.0)
    def consider_one_stage(model_id: int, stage: str) -> None:
        with tools.database.transaction() as session:
            automation.consider_stage(session, model_id, stage, stages=stages, now=now(session))

    @DBOS.workflow(name=CONSIDER_STAGE)
    def consider_stage(policy_id: int) -> None:
        """A policy has changed: judge what is pending on its stage, and let the best version ask for it."""
        stage, model_ids = models_concerned(policy_id)
        for model_id in model_ids:
            consider_one_stage(model_id, stage)

    @DBOS.step(name="expire_due", retries_allowed=True, max_attempts=3, interval_seconds=1.0)
    def expire_due() -> int:
        with tools.database.transaction() as session:
            return deciding.expire(session, limit=_A_RUN, now=now(session))

    @DBOS.workflow(name=EXPIRE_PROMOTIONS)
    def expire_promotions(_scheduled: datetime, _context: Any) -> None:
        """Close pending promotions whose time is over."""
        while expire_due() == _A_RUN:
            pass

    return {CONSIDER: consider_version, CONSIDER_STAGE: consider_stage, EXPIRE_PROMOTIONS: expire_promotions}
