"""Promotions as pages show them: with their decisions, and with what the person who looks may do about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from registry.db.tables import Approval, Model, Policy, Promotion
from registry.domain import policy as rules
from registry.domain.access import Permission
from registry.request import Session
from registry.services import deciding, models, policies, promotion_lists
from registry.services.actors import Actor


@dataclass(frozen=True, slots=True)
class Card:
    """One promotion. `not_counted` says why the approval of the one who looks would not count."""

    row: Promotion
    state: str
    decisions: Sequence[Approval]
    revision: int | None
    required: int
    missing: int
    not_counted: str | None
    has_approved: bool
    may_decide: bool
    may_cancel: bool

    @property
    def is_forced(self) -> bool:
        """Whether it was put past the policy."""
        return self.row.kind == "force"

    @property
    def waits(self) -> bool:
        """Whether a gate waits for evidence."""
        return any(gate["passed"] is None for gate in self.row.gates)

    @property
    def failed(self) -> int:
        """How many gates are not met."""
        return sum(gate["passed"] is False for gate in self.row.gates)

    @property
    def approvers(self) -> list[str]:
        """Who agreed, by decisions that counted."""
        return [each.user_name for each in self.decisions if each.decision == "approve" and each.lapsed_at is None]

    @property
    def may_approve(self) -> bool:
        """Whether an approval of the one who looks would count."""
        return self.may_decide and self.not_counted is None and not self.has_approved


def cards(
    session: Session, actor: Actor, model: Model, rows: Sequence[Promotion], policy: rules.Policy, *, now: datetime
) -> dict[str, Card]:
    """The cards of some promotions of one stage by their ids: three queries, however many. `policy` is in force."""
    made = deciding.approvals_of(session, [row.id for row in rows])
    revisions = policies.revisions_of(session, rows)
    numbers = {row.number for row in rows if row.state == "pending" and row.number is not None}
    standing = promotion_lists.standing(session, model, numbers)
    return {
        row.id: _card(
            actor, model, row, policy, decisions=made.get(row.id, ()), revisions=revisions, standing=standing, now=now
        )
        for row in rows
    }


def _card(
    actor: Actor,
    model: Model,
    row: Promotion,
    policy: rules.Policy,
    *,
    decisions: Sequence[Approval],
    revisions: Mapping[int, int],
    standing: Mapping[int, promotion_lists.Standing],
    now: datetime,
) -> Card:
    name = models.full_name(model)
    is_over = row.state == "pending" and row.expires_at is not None and row.expires_at <= now
    is_open = row.state == "pending" and not is_over
    required = deciding.required(row, policy) if is_open else 0
    version = standing.get(row.number or 0)
    is_own = row.requested_by == actor.name or actor.may(Permission.PROMOTION_FORCE, name)
    return Card(
        row=row,
        state="expired" if is_over else row.state,
        decisions=decisions,
        revision=revisions.get(row.policy_id or 0),
        required=required,
        missing=max(0, required - deciding.agreed(decisions)),
        not_counted=deciding.why_not_counted(
            actor, model, row, uploader=version.created_by if version is not None else None, policy=policy
        ),
        has_approved=any(each.user_id == actor.user_id and each.lapsed_at is None for each in decisions),
        may_decide=is_open and actor.may(Permission.PROMOTION_DECIDE, name),
        may_cancel=is_open and is_own and actor.may(Permission.PROMOTION_REQUEST, name),
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What a stage asks of a promotion: the stored revision, None if it asks nothing, and its rules."""

    row: Policy | None
    rules: rules.Policy


def asked(session: Session, model: Model, stage: str) -> Asked:
    """The policy in force."""
    row = policies.in_force(session, model, stage)
    return Asked(row, policies.read(row))
