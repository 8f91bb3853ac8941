"""The shapes of promotions, their gates and approvals, and of policies."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from registry.wire.base import Digest, In, Message, Number, Out
from registry.wire.models import StageHolder

_Expect = Annotated[int, Field(ge=0, le=2**31 - 1)]
_ExpectSeq = Annotated[int, Field(ge=0, le=2**62)]


class PromotionIn(In):
    """Move a stage to a version; null empties it. `expect` is the holder you saw, 0 for none.

    `force` (admins only, with a message) skips gates, approvals and freeze, and shows in the history for ever.
    """

    version: Number | None
    expect: _Expect | None = None
    expect_seq: _ExpectSeq | None = None
    message: Message = ""
    force: bool = False


class RollbackIn(In):
    """Go back to an earlier holder: the one before, or version `to`."""

    to: Number | None = None
    expect: _Expect | None = None
    expect_seq: _ExpectSeq | None = None
    message: Message = ""


class GateOut(Out):
    """What a gate said, and the evidence it saw. `passed` is null while it waits for evidence being computed."""

    kind: str
    passed: bool | None
    reason: str
    evidence: dict[str, Any]


class ApprovalOut(Out):
    """A decision on a promotion. One that has lapsed was given on other evidence and does not count."""

    by: str
    decision: Literal["approve", "reject"]
    comment: str
    at: datetime
    lapsed_at: datetime | None


class PromotionOut(Out):
    """A promotion and what became of it.

    `evidence` is what approvals are bound to; `missing_approvals` is how many it still needs while it is pending.
    """

    id: str
    model: str
    stage: str
    kind: str
    state: Literal["pending", "applied", "rejected", "cancelled", "expired", "failed"]
    seq: int | None
    version: int | None
    previous: int | None
    by: str
    at: datetime
    message: str
    requested_at: datetime
    expires_at: datetime | None
    policy_revision: int | None
    evidence: Digest | None
    gates: list[GateOut]
    approvals: list[ApprovalOut]
    missing_approvals: int


class PreviewOut(Out):
    """What a promotion would meet now. `outcome` is what would become of it; so many `consumers` follow the stage."""

    model: str
    stage: str
    version: int
    outcome: Literal["applied", "pending", "failed", "frozen"]
    freeze: str | None
    policy_revision: int | None
    required_approvals: int
    consumers: int
    gates: list[GateOut]


class DecisionIn(In):
    """Approve, reject or cancel. `evidence`, if given, is what the approver saw: a change since refuses (409)."""

    comment: Message = ""
    evidence: Digest | None = None


class HistoryItem(Out):
    """One entry of a stage's history. `until` is when the next one took its place; null for the present holder."""

    seq: int
    kind: str
    version: int | None
    previous: int | None
    by: str
    at: datetime
    until: datetime | None
    message: str
    id: str
    gates: list[GateOut]
    approved_by: list[str]


class StageChange(Out):
    """Who held a stage at the beginning and at the end of a time, and how often it moved in between."""

    stage: str
    before: StageHolder
    after: StageHolder
    moves: int


class PolicyDocument(RootModel[dict[str, Any] | None]):
    """A policy as `/policy-schema` says; null takes a model's own away."""


class PolicyOut(Out):
    """The policy of a stage. `scope` says whose it is; null where there is none and nothing is asked.

    `policy` is null where a model gave up its own.
    """

    stage: str
    scope: Literal["model", "namespace"] | None
    revision: int
    policy: dict[str, Any] | None
    message: str
    by: str | None
    at: datetime | None


class StagesIn(In):
    """Names of stages in the order a version climbs; null for those of the namespace, or of the server."""

    stages: Annotated[list[str], Field(min_length=1, max_length=20)] | None


class StagesOut(Out):
    """The stages there are, and who named them."""

    stages: list[str]
    scope: Literal["model", "namespace", "server"]
