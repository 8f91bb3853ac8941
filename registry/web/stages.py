"""`/models/NAME/stages/STAGE`: who put what there and why, was it better, what waits, and the way back."""

from datetime import UTC, datetime
from typing import Final

from flask import Blueprint, Response

from registry.db.tables import Model, Pointer, Promotion
from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import (
    InvalidCursorError,
    Session,
    actor,
    choice_parameter,
    config,
    cursor,
    next_cursor,
    page_limit,
    transaction,
)
from registry.services import models, pointers, policies, promotion_lists, promotions
from registry.web import ordering, wording
from registry.web.browser import signed_in
from registry.web.cards import asked, cards
from registry.web.pages import render

bp = Blueprint("stages", __name__)

PATH: Final = "/models/<model:model>/stages/<stage>"
STATES: Final = ("pending", "applied", *promotion_lists.REFUSED)
_PENDING: Final = 20
_REFUSED: Final = 5


@bp.get(PATH)
@signed_in(Permission.PROMOTION_READ)
def show(model: ModelName, stage: str) -> Response:
    """The holder with its gates, what waits, the history newest first, what was refused, and the policy."""
    limit, before = page_limit(), cursor(int)
    moment = datetime.now(UTC)
    with transaction(read_only=True) as session:
        row, name = _found(session, model, stage)
        asks = asked(session, row, stage)
        rows = promotions.history(session, row, stage, before=before[0] if before else None, limit=limit)
        following = next_cursor(rows, limit, lambda entry: (entry.seq,))
        holder = pointers.find_stage(session, row, stage)
        current = rows[:1] if before is None else promotions.history(session, row, stage, before=None, limit=1)[:1]
        pending = promotions.page_of_promotions(session, row, stage, state="pending", before=None, limit=_PENDING)
        refused = promotion_lists.refused(session, row, stage, limit=_REFUSED)
        listed = {each.id: each for each in (*rows, *current, *pending, *refused)}
        may_return = asks.rules.freeze is None and actor().may(Permission.PROMOTION_ROLLBACK, name)
        return render(
            "stage.html",
            name=name,
            stage=stage,
            stages=ordering.stages(models.stages_of(row, config().stages)),
            holder=holder,
            current=current[0] if current else None,
            policy=asks,
            words=wording.words(asks.rules),
            document=wording.document,
            may_read_policy=actor().may(Permission.POLICY_READ, name),
            cards=cards(session, actor(), row, list(listed.values()), asks.rules, now=moment),
            pending=pending[:_PENDING],
            has_more_pending=len(pending) > _PENDING,
            refused=refused[:_REFUSED],
            rows=rows,
            ends=promotions.ends(session, row, stage, rows),
            returns=_returns(session, row, holder, rows) if may_return else {},
            is_first=before is None,
            following=following,
            now=moment,
        )


@bp.get(f"{PATH}/requests")
@signed_in(Permission.PROMOTION_READ)
def index(model: ModelName, stage: str) -> Response:
    """Whatever was asked of the stage, in any state, the last asked for first."""
    limit, before = page_limit(), cursor(str, str)
    state = choice_parameter("state", *STATES)
    moment = datetime.now(UTC)
    with transaction(read_only=True) as session:
        row, name = _found(session, model, stage)
        rows = promotions.page_of_promotions(
            session, row, stage, state=state, before=_key(before) if before else None, limit=limit
        )
        following = next_cursor(rows, limit, lambda each: (each.requested_at.isoformat(), each.id))
        asks = asked(session, row, stage)
        return render(
            "requests.html",
            name=name,
            stage=stage,
            rows=rows,
            cards=cards(session, actor(), row, rows, asks.rules, now=moment),
            state=state,
            states=STATES,
            is_first=before is None,
            following=following,
            now=moment,
        )


@bp.get(f"{PATH}/policy")
@signed_in(Permission.POLICY_READ)
def policy(model: ModelName, stage: str) -> Response:
    """What the stage asks, and every revision of it: the model's own, or its namespace's."""
    limit, before = page_limit(), cursor(int)
    with transaction(read_only=True) as session:
        row, name = _found(session, model, stage)
        asks = asked(session, row, stage)
        in_force = "namespace" if asks.row is not None and asks.row.model_id is None else "model"
        scope = choice_parameter("scope", "model", "namespace", default=in_force)
        find = policies.revisions if scope == "model" else policies.revisions_of_namespace
        rows = find(session, row, stage, before=before[0] if before else None, limit=limit)
        changes = wording.changes([each.document for each in rows])
        following = next_cursor(rows, limit, lambda each: (each.revision,))
        return render(
            "policy.html",
            name=name,
            stage=stage,
            policy=asks,
            words=wording.words(asks.rules),
            document=wording.document,
            scope=scope,
            rows=rows,
            changes=changes,
            is_first=before is None,
            following=following,
        )


def _found(session: Session, model: ModelName, stage: str) -> tuple[Model, ModelName]:
    row = models.find(session, actor(), model, Permission.PROMOTION_READ)
    pointers.check_stage(row, stage, config().stages)
    return row, models.full_name(row)


def _returns(session: Session, model: Model, holder: Pointer | None, rows: list[Promotion]) -> dict[str, int]:
    """The versions that the stage can go back to, each at its newest entry of these."""
    newest = {row.number: row.id for row in reversed(rows) if row.number is not None}
    if holder is not None and holder.number is not None:
        newest.pop(holder.number, None)
    known = promotion_lists.standing(session, model, newest)
    return {newest[number]: number for number, each in known.items() if each.is_good}


def _key(before: tuple[str, str]) -> tuple[datetime, str]:
    try:
        return datetime.fromisoformat(before[0]).astimezone(UTC), before[1]
    except (ValueError, OverflowError):
        raise InvalidCursorError("The cursor is not valid.") from None
