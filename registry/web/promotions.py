"""`/promotions/ID` and the forms that decide on promotions, and the one that rolls a stage back."""

from datetime import UTC, datetime

from flask import Blueprint, Response, url_for

from registry.db.session import now
from registry.db.tables import Model, Promotion
from registry.domain.access import Permission
from registry.domain.digest import format_digest
from registry.domain.names import ModelName
from registry.request import actor, config, transaction
from registry.services import deciding, models, pointers, promotions, proposing
from registry.services.deciding import EvidenceChangedError
from registry.services.promotions import Expected
from registry.web import forms
from registry.web.browser import check_own_form, signed_in
from registry.web.cards import asked, cards
from registry.web.pages import go, render

bp = Blueprint("promotions", __name__)


@bp.get("/promotions/<promotion>")
@signed_in(Permission.PROMOTION_READ)
def show(promotion: str) -> Response:
    """One promotion with its gates and decisions. Not there for whoever may not read its model."""
    moment = datetime.now(UTC)
    with transaction(read_only=True) as session:
        row, model = promotions.find(session, actor(), promotion)
        asks = asked(session, model, row.stage)
        return render(
            "promotion.html",
            name=models.full_name(model),
            stage=row.stage,
            card=cards(session, actor(), model, [row], asks.rules, now=moment)[row.id],
            digest=format_digest(row.evidence_sha256) if row.evidence_sha256 else None,
            now=moment,
        )


@bp.post("/promotions/<promotion>/approve")
@signed_in(Permission.PROMOTION_DECIDE)
def approve(promotion: str) -> Response:
    """Agree to what the page showed. If that is not so any more, the page shows what is from now on."""
    check_own_form()
    comment, seen = forms.written("comment"), forms.digest("evidence")
    try:
        with transaction() as session:
            row, model = deciding.approve(
                session, actor(), promotion, stages=config().stages, now=now(session), comment=comment, seen=seen
            )
            return after(model, row)
    except EvidenceChangedError:
        with transaction() as session:
            row, model = promotions.find(session, actor(), promotion)
            models.lock(session, model)
            deciding.reconsider_stage(session, model, row.stage, stages=config().stages, now=now(session))
        raise


@bp.post("/promotions/<promotion>/reject")
@signed_in(Permission.PROMOTION_DECIDE)
def reject(promotion: str) -> Response:
    """End it."""
    check_own_form()
    comment = forms.written("comment")
    with transaction() as session:
        row, model = deciding.reject(session, actor(), promotion, now=now(session), comment=comment)
        return after(model, row)


@bp.post("/promotions/<promotion>/cancel")
@signed_in(Permission.PROMOTION_REQUEST)
def cancel(promotion: str) -> Response:
    """Take it back."""
    check_own_form()
    comment = forms.written("comment")
    with transaction() as session:
        row, model = deciding.cancel(session, actor(), promotion, now=now(session), comment=comment)
        return after(model, row)


@bp.post("/models/<model:model>/stages/<stage>/rollback")
@signed_in(Permission.PROMOTION_ROLLBACK)
def rollback(model: ModelName, stage: str) -> Response:
    """Return to a former holder, if the stage still is what the page showed."""
    check_own_form()
    message, to, seq = forms.written("message"), forms.number("to"), forms.number("seq")
    with transaction() as session:
        row = models.find(session, actor(), model, Permission.PROMOTION_ROLLBACK)
        models.lock(session, row)  # the time read next is the time of the move
        pointers.check_stage(row, stage, config().stages)
        promotion = proposing.rollback(
            session,
            actor(),
            row,
            stage,
            to,
            stages=config().stages,
            now=now(session),
            expected=Expected(seq=seq),
            message=message,
        )
        return after(row, promotion)


def after(model: Model, promotion: Promotion) -> Response:
    """Where to look after a decision: at the stage, or at the gates that are not met."""
    if promotion.state == "failed":
        return go(url_for("web.promotions.show", promotion=promotion.id))
    part = {"pending": "waiting", "applied": None}.get(promotion.state, "refused")
    return go(url_for("web.stages.show", model=models.full_name(model), stage=promotion.stage, _anchor=part))
