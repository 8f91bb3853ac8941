"""`/models/{name}/stages`: who holds a stage, who held it, and moving it."""

import re
from datetime import UTC, datetime
from http import HTTPStatus

from flask import Blueprint, Response, request

from registry import wire
from registry.api import shapes
from registry.api.operation import IF_MATCH, PAGED, Parameter, operation
from registry.api.promotions import concluded, promotion_shapes
from registry.db.session import now
from registry.db.tables import Model, Promotion
from registry.domain.access import Permission
from registry.domain.errors import PreconditionError
from registry.domain.names import ModelName
from registry.domain.references import MAX_NUMBER
from registry.request import (
    InvalidCursorError,
    InvalidParameterError,
    Session,
    actor,
    answer,
    body,
    choice_parameter,
    config,
    cursor,
    next_cursor,
    number_parameter,
    page,
    page_limit,
    requires,
    transaction,
)
from registry.services import consumers, deciding, models, pointers, promotions, proposing
from registry.services.judging import Judgement
from registry.services.promotions import Expected, Within

bp = Blueprint("stages", __name__)

_STAGE = "/models/<model:model>/stages/<stage>"
_STATES = ("pending", "applied", "rejected", "cancelled", "expired", "failed")
_DRY_RUN = Parameter(
    "dry_run",
    "1 to be told gate by gate what would become of it; nothing changes.",
    {"type": "string", "enum": ["0", "1"]},
)
_BETWEEN = (
    Parameter("since", "Only what was decided after this time (RFC 3339).", {"type": "string", "format": "date-time"}),
    Parameter("until", "Only what was decided until this time.", {"type": "string", "format": "date-time"}),
)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


class PreconditionFailedError(PreconditionError):
    """The stage is not the one whose ETag the request names in `If-Match`."""

    code = "PRECONDITION_FAILED"
    remedy = "Read the stage again, and repeat the request with its present ETag."


@bp.get("/models/<model:model>/stages")
@requires(Permission.PROMOTION_READ)
@operation("List a model's stages and who holds them", answers={200: wire.Page[wire.StageHolder]})
def index(model: ModelName) -> Response:
    """Every configured stage, also those that never moved."""
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.PROMOTION_READ)
        held = {pointer.name: pointer for pointer in pointers.stages_of(session, [row.id]).get(row.id, [])}
        stages = models.stages_of(row, config().stages)
        running = consumers.running(session, row, stages, now=now(session))
        items = [shapes.holder(stage, held.get(stage), running[stage]) for stage in stages]
        return page(wire.Page[wire.StageHolder](items=items))


@bp.get(_STAGE)
@requires(Permission.PROMOTION_READ)
@operation(
    "Show who holds a stage",
    answers={200: wire.StageHolder},
    query=(Parameter("at", "Who held it at this time (RFC 3339).", {"type": "string", "format": "date-time"}),),
)
def show(model: ModelName, stage: str) -> Response:
    """Now, or at a moment of its history. The ETag is of who holds it; consumers come and go under it."""
    moment = _time("at")
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.PROMOTION_READ)
        pointers.check_stage(row, stage, config().stages)
        if moment is None:
            pointer = pointers.find_stage(session, row, stage)
            seq = pointer.seq if pointer is not None else 0
            if request.if_none_match.contains_weak(_etag(stage, seq)):  # asked every few seconds by who follows it
                return answer(shapes.holder(stage, pointer), etag=_etag(stage, seq))
            running = consumers.running(session, row, [stage], now=now(session))
            shape = shapes.holder(stage, pointer, running[stage])
        else:
            shape = _holder_then(stage, promotions.at(session, row, stage, moment))
        return answer(shape, etag=_etag(stage, shape.seq))


@bp.post(f"{_STAGE}/promotions")
@requires(Permission.PROMOTION_READ)
@operation(
    "Move a stage to a version, or empty it",
    body=wire.PromotionIn,
    answers={200: wire.PreviewOut, 201: wire.PromotionOut, 202: wire.PromotionOut},
    query=(_DRY_RUN,),
    headers=(IF_MATCH,),
    refuses=(410, 412),
)
def promote(model: ModelName, stage: str) -> Response:
    """One of any number who expect the same holder wins; the others get 409 with the winner.

    202 while it waits for evidence or approvals; 422 `GATES_FAILED` if a gate is not met, which is on record.
    Takes `promotion:request`; whoever may read may ask for a dry run.
    """
    if choice_parameter("dry_run", "0", "1", default="0") == "1":
        return _preview(model, stage, body(wire.PromotionIn))
    actor().check(Permission.PROMOTION_REQUEST, model)
    asked = body(wire.PromotionIn)
    expected = Expected(asked.expect, asked.expect_seq)
    with transaction() as session:
        row = _unmoved(session, model, stage, Permission.PROMOTION_REQUEST)
        if asked.version is None:
            promotion = proposing.demote(
                session,
                actor(),
                row,
                stage,
                stages=config().stages,
                now=now(session),
                expected=expected,
                message=asked.message,
            )
        else:
            promotion = proposing.promote(
                session,
                actor(),
                row,
                stage,
                asked.version,
                stages=config().stages,
                now=now(session),
                kind="force" if asked.force else "promote",
                expected=expected,
                message=asked.message,
            )
        return concluded(session, row, promotion, HTTPStatus.CREATED)


@bp.post(f"{_STAGE}/rollback")
@requires(Permission.PROMOTION_ROLLBACK)
@operation(
    "Return a stage to an earlier holder",
    body=wire.RollbackIn,
    answers={201: wire.PromotionOut, 202: wire.PromotionOut},
    headers=(IF_MATCH,),
    refuses=(410, 412),
)
def rollback(model: ModelName, stage: str) -> Response:
    """The holder before the present one, or version `to`, which held the stage before."""
    asked = body(wire.RollbackIn)
    with transaction() as session:
        row = _unmoved(session, model, stage, Permission.PROMOTION_ROLLBACK)
        promotion = proposing.rollback(
            session,
            actor(),
            row,
            stage,
            asked.to,
            stages=config().stages,
            now=now(session),
            expected=Expected(asked.expect, asked.expect_seq),
            message=asked.message,
        )
        return concluded(session, row, promotion, HTTPStatus.CREATED)


@bp.get(f"{_STAGE}/promotions")
@requires(Permission.PROMOTION_READ)
@operation(
    "List what was asked of a stage",
    answers={200: wire.Page[wire.PromotionOut]},
    query=(*PAGED, Parameter("state", "Only those in this state.", {"type": "string", "enum": list(_STATES)})),
)
def index_promotions(model: ModelName, stage: str) -> Response:
    """Every promotion, also pending, rejected and failed ones; the last asked for first."""
    limit, before = page_limit(), cursor(str, str)
    state = choice_parameter("state", *_STATES)
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.PROMOTION_READ)
        pointers.check_stage(row, stage, config().stages)
        rows = promotions.page_of_promotions(
            session, row, stage, state=state, before=_key(before) if before else None, limit=limit
        )
        following = next_cursor(rows, limit, lambda each: (each.requested_at.isoformat(), each.id))
        return page(wire.Page[wire.PromotionOut](items=promotion_shapes(session, row, rows), next=following))


@bp.get(f"{_STAGE}/history")
@requires(Permission.PROMOTION_READ)
@operation(
    "List what held a stage",
    answers={200: wire.Page[wire.HistoryItem]},
    query=(
        *PAGED,
        Parameter("version", "Only its terms.", {"type": "integer", "minimum": 1, "maximum": MAX_NUMBER}),
        *_BETWEEN,
    ),
)
def history(model: ModelName, stage: str) -> Response:
    """One page, newest first; a version's terms lasted from `at` to `until`."""
    limit, before = page_limit(), cursor(int)
    within = Within(number_parameter("version", 0, low=1, high=MAX_NUMBER) or None, _time("since"), _time("until"))
    if before is not None and not 0 < before[0] <= MAX_NUMBER:
        raise InvalidCursorError("The cursor is not valid.")
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.PROMOTION_READ)
        pointers.check_stage(row, stage, config().stages)
        rows = promotions.history(session, row, stage, before=before[0] if before else None, limit=limit, within=within)
        following = next_cursor(rows, limit, lambda promotion: (promotion.seq,))
        ends = promotions.ends(session, row, stage, rows)
        approvers = deciding.approvers(session, [each.id for each in rows])
        items = [_entry(each, ends.get(each.seq or 0), approvers.get(each.id, [])) for each in rows]
        return page(wire.Page[wire.HistoryItem](items=items, next=following))


@bp.get("/models/<model:model>/history")
@requires(Permission.PROMOTION_READ)
@operation("Compare who held a model's stages at two times", answers={200: wire.Page[wire.StageChange]}, query=_BETWEEN)
def changes(model: ModelName) -> Response:
    """Every stage, also those that did not move; `until` is now if it is left out."""
    since = _time("since")
    if since is None:
        raise InvalidParameterError("since is missing: the time to compare with.")
    until = _time("until")
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.PROMOTION_READ)
        until = until or now(session)
        within = Within(since=since, until=until)
        items = [
            wire.StageChange(
                stage=stage,
                before=_holder_then(stage, promotions.at(session, row, stage, since)),
                after=_holder_then(stage, promotions.at(session, row, stage, until)),
                moves=promotions.moves(session, row, stage, within),
            )
            for stage in models.stages_of(row, config().stages)
        ]
        return page(wire.Page[wire.StageChange](items=items))


def _preview(model: ModelName, stage: str, asked: wire.PromotionIn) -> Response:
    if asked.version is None:
        raise InvalidParameterError("dry_run is about promoting a version; there is none in the body.")
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.PROMOTION_READ)
        judged = proposing.preview(
            session, actor(), row, stage, asked.version, stages=config().stages, now=now(session)
        )
        reach = consumers.reach(session, row, stage, now=now(session))
        return answer(_previewed(models.full_name(row), stage, asked.version, judged, reach))


def _previewed(model: ModelName, stage: str, number: int, judged: Judgement, reach: int) -> wire.PreviewOut:
    required = judged.policy.approvals.required if judged.policy.approvals is not None else 0
    outcome = "applied"
    if judged.policy.freeze is not None:
        outcome = "frozen"
    elif judged.failed:
        outcome = "failed"
    elif judged.waits or required:
        outcome = "pending"
    return wire.PreviewOut.model_validate({
        "model": str(model),
        "stage": stage,
        "version": number,
        "outcome": outcome,
        "freeze": judged.policy.freeze,
        "policy_revision": judged.policy_revision,
        "required_approvals": required,
        "consumers": reach,
        "gates": judged.rows(),
    })  # fmt: skip


def _key(before: tuple[str, str]) -> tuple[datetime, str]:
    try:
        return datetime.fromisoformat(before[0]).astimezone(UTC), before[1]
    except (ValueError, OverflowError):
        raise InvalidCursorError("The cursor is not valid.") from None


def _unmoved(session: Session, model: ModelName, stage: str, permission: Permission) -> Model:
    """The model, locked, so that the time read next is the time of the move. Raises PreconditionFailedError."""
    row = models.find(session, actor(), model, permission)
    models.lock(session, row)
    pointers.check_stage(row, stage, config().stages)
    if request.if_match:
        pointer = pointers.find_stage(session, row, stage)
        present = _etag(stage, pointer.seq if pointer is not None else 0)
        if not request.if_match.contains(present):
            raise PreconditionFailedError(f"{models.full_name(row)}@{stage} has moved since it was read.", etag=present)
    return row


def _etag(stage: str, seq: int) -> str:
    """A stage is what its newest history entry made it."""
    return f"{stage}-{seq}"


def _time(name: str) -> datetime | None:
    text = request.args.get(name)
    if text is None:
        return None
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):  # the 30th of February, or before the year 1
        pass
    raise InvalidParameterError(f"{name} must be a time such as 2026-11-24T08:00:00Z; write a + in a URL as %2B.")


def _holder_then(stage: str, promotion: Promotion | None) -> wire.StageHolder:
    if promotion is None:
        return shapes.holder(stage, None)
    return wire.StageHolder(
        stage=stage,
        version=promotion.number,
        seq=promotion.seq or 0,
        since=promotion.decided_at,
        by=promotion.requested_by,
    )


def _entry(promotion: Promotion, until: datetime | None, approved_by: list[str]) -> wire.HistoryItem:
    return wire.HistoryItem.model_validate({
        "seq": promotion.seq,
        "kind": promotion.kind,
        "version": promotion.number,
        "previous": promotion.previous,
        "by": promotion.requested_by,
        "at": promotion.decided_at,
        "until": until,
        "message": promotion.message,
        "id": promotion.id,
        "gates": promotion.gates,
        "approved_by": approved_by,
    })  # fmt: skip
