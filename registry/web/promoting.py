"""`/models/NAME/versions/N/promote?stage=S`: what would become of promoting a version, gate by gate, and doing it."""

from datetime import UTC, datetime
from typing import Final

from flask import Blueprint, Response, request

from registry.db.session import now
from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import actor, config, transaction
from registry.services import models, pointers, proposing, versions
from registry.services.judging import Judgement
from registry.services.promotions import Expected
from registry.web import forms, ordering
from registry.web.browser import check_own_form, signed_in
from registry.web.pages import render
from registry.web.promotions import after

bp = Blueprint("promoting", __name__)

_PATH: Final = "/models/<model:model>/versions/<int:number>/promote"


@bp.get(_PATH)
@signed_in(Permission.PROMOTION_READ)
def show(model: ModelName, number: int) -> Response:
    """What every gate says now. Nothing is written."""
    moment = datetime.now(UTC)
    with transaction(read_only=True) as session:
        version = versions.find(session, actor(), model, number, Permission.VERSION_READ)
        row, name = version.model, models.full_name(version.model)
        known = models.stages_of(row, config().stages)
        stage = pointers.check_stage(row, request.args.get("stage", known[0]), config().stages)
        judged = proposing.preview(session, actor(), row, stage, number, stages=config().stages, now=moment)
        return render(
            "promote.html",
            name=name,
            version=version,
            stage=stage,
            stages=ordering.stages(known),
            holder=pointers.find_stage(session, row, stage),
            judged=judged,
            gates_now=judged.rows(),
            gates_unmet=sum(each.passed is False for each in judged.results),
            outcome=_outcome(judged),
            required=judged.policy.approvals.required if judged.policy.approvals is not None else 0,
            may_ask=actor().may(Permission.PROMOTION_REQUEST, name),
            may_force=actor().may(Permission.PROMOTION_FORCE, name),
        )


@bp.post(_PATH)
@signed_in(Permission.PROMOTION_REQUEST)
def promote(model: ModelName, number: int) -> Response:
    """Ask for it, or force it, if the stage still is what the page showed."""
    check_own_form()
    message, seq, stage = forms.written("message"), forms.number("seq"), request.form.get("stage", "")
    forced = request.form.get("force") == "1"
    with transaction() as session:
        row = models.find(session, actor(), model, Permission.PROMOTION_REQUEST)
        models.lock(session, row)  # the time read next is the time of the move
        promotion = proposing.promote(
            session,
            actor(),
            row,
            stage,
            number,
            stages=config().stages,
            now=now(session),
            kind="force" if forced else "promote",
            expected=Expected(seq=seq),
            message=message,
        )
        return after(row, promotion)


def _outcome(judged: Judgement) -> str:
    """What would become of it: frozen, failed, waits (for evidence), asks (for approvals) or applies."""
    if judged.policy.freeze is not None:
        return "frozen"
    if judged.failed:
        return "failed"
    if judged.policy.approvals is not None:
        return "asks"
    return "waits" if judged.waits else "applies"
