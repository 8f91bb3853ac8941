"""Whatever people, evidence, policies and time do to a stage, in any order: it does what a model of the rules says.

`make soak` plays longer.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import insert, select

from registry.db.session import Database
from registry.db.tables import Approval, Metric, Model, Pointer, Promotion, Version, VersionTag
from registry.domain.access import Permission
from registry.domain.errors import RegistryError
from registry.domain.names import parse_model
from registry.services import automation, deciding, models, policies, promotions, proposing, versions
from registry.services.actors import SYSTEM
from registry.services.models import Objective
from registry.services.policies import Change
from tests.support.factories import make_model, make_version
from tests.support.world import T0, People

STAGES = ("staging", "production")
STAGE = "production"
NAME = parse_model("default/m")
LIFE = timedelta(seconds=100)
UPLOADER = "ana"
ROLES = {"ana": "promoter", "rita": "promoter", "pat": "promoter", "pia": "promoter", "max": "admin"}
GATES = {
    "verified": {"kind": "verified"},
    "tag": {"kind": "tag", "key": "checked", "value": "yes"},
    "beats": {"kind": "beats_incumbent", "metric": "mAP", "direction": "max"},
}
ONE, TWO = {"required": 1}, {"required": 2}
NAMED: dict[str, Any] = ONE | {"users": ["pat"]}
ADMIN: dict[str, Any] = ONE | {"role": "admin"}
APPROVALS = (None, ONE, TWO, TWO, NAMED, ADMIN)
APPROVERS = st.lists(st.sampled_from(["max", "pat", "pia", "pia", "rita", "ana"]), min_size=1, max_size=3)
VALUES = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5])
GATE_SETS = [[], ["verified"], ["tag"], ["beats"], ["beats", "verified"], ["tag", "verified"]]
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "gates": st.sampled_from(GATE_SETS).map(lambda names: [GATES[name] for name in names]),
    "approvals": st.sampled_from(APPROVALS),
    "auto": st.sampled_from([None, {}]),
    "freeze": st.sampled_from([None, None, "the fair"]),
    "rollback_skips_approvals": st.booleans(),
}
BLANK: dict[str, Any] = {
    "gates": [],
    "approvals": None,
    "auto": None,
    "freeze": None,
    "rollback_skips_approvals": False,
}


@dataclass
class Known:
    """A version as the model of the rules knows it."""

    integrity: str
    value: float | None = None
    checked: bool = False
    is_trashed: bool = False

    @property
    def is_good(self) -> bool:
        return not self.is_trashed and self.integrity != "damaged"


@dataclass
class Asked:
    """A promotion as the model of the rules knows it."""

    id: str
    number: int | None
    kind: str
    by: str
    expires: datetime
    state: str = "pending"
    seq: int | None = None
    seen: Any = None
    approved: list[str] = field(default_factory=list)


class Stage(RuleBasedStateMachine):
    """One stage of one model. Each act is done to the database and to the model of the rules."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.session = self.stack.enter_context(self.database.transaction())
        people = People(self.database, self.session)
        self.people = {name: people.actor(name, role) for name, role in ROLES.items()}
        models.set_objective(make_model(self.session), Objective("mAP", "max", "coco"))
        self.now = T0
        self.known: dict[int, Known] = {}
        self.asked: list[Asked] = []
        self.history: list[Asked] = []
        self.policy = BLANK
        self.ids: dict[str, str] = {}

    def teardown(self) -> None:
        self.session.rollback()
        self.stack.close()

    # A refusal rolls back, after which nothing that was loaded before is.

    @property
    def model(self) -> Model:
        return models.find(self.session, SYSTEM, NAME, Permission.MODEL_READ)

    def row(self, number: int) -> Version:
        return versions.find(self.session, SYSTEM, NAME, number, Permission.VERSION_READ)

    # What the rules say.

    @property
    def holder(self) -> int | None:
        return self.history[-1].number if self.history else None

    @property
    def pending(self) -> list[Asked]:
        return [each for each in self.asked if each.state == "pending"]

    def verdicts(self, number: int | None, kind: str) -> list[tuple[Any, ...]]:
        if number is None:
            return [("version", False)] if self.holder is None else []
        version = self.known[number]
        said: list[tuple[Any, ...]] = []
        if not version.is_good:
            said.append(("version", False, "trashed" if version.is_trashed else "damaged"))
        if kind == "rollback":
            return said
        for gate in [
            *self.policy["gates"],
            *([GATES["beats"]] if kind == "auto" and self.policy["auto"] is not None else []),
        ]:
            if gate["kind"] == "verified":
                passed = {"verified": True, "damaged": False, "unverified": None}[version.integrity]
                said.append(("verified", passed, version.integrity))
            elif gate["kind"] == "tag":
                said.append(("tag", version.checked))
            else:
                said.append(("beats", *self.beats(number)))
        return said

    def beats(self, number: int) -> tuple[Any, ...]:
        ours = self.known[number].value
        if self.holder in (None, number):
            return True, self.holder
        theirs = self.known[self.holder].value
        if ours is None or theirs is None:
            return False, "ours" if ours is None else ("theirs", self.holder)
        return ours > theirs, ours, theirs, self.holder

    def asks_of(self) -> Any:
        asked = self.policy["approvals"]
        return None if asked is None else (asked.get("role", "promoter"), tuple(asked.get("users", ())))

    def judge(self, each: Asked) -> list[tuple[Any, ...]]:
        said = self.verdicts(each.number, each.kind)
        seen = (len(self.history), said, self.asks_of())
        if each.seen != seen:
            each.approved, each.seen = [], seen
        return said

    def conclude(self, each: Asked, said: list[tuple[Any, ...]]) -> None:
        if each.kind != "force":
            if any(passed is False for _, passed, *_ in said):
                each.state = "failed"
                return
            waits = any(passed is None for _, passed, *_ in said)
            if waits or self.policy["freeze"] is not None or len(each.approved) < self.required(each):
                return
        each.state, each.seq = "applied", len(self.history) + 1
        self.history.append(each)
        for other in self.pending:
            if other.expires <= self.now:
                other.state = "expired"
            elif any(passed is False for _, passed, *_ in self.judge(other)):
                other.state = "failed"

    def required(self, each: Asked) -> int:
        asked = self.policy["approvals"]
        skips = each.kind == "rollback" and self.policy["rollback_skips_approvals"]
        return 0 if asked is None or skips else asked["required"]

    def settle(self, each: Asked) -> None:
        if each.state == "pending":
            if each.expires <= self.now:
                each.state = "expired"
            else:
                self.conclude(each, self.judge(each))

    # What is done, to both.

    def refused(self, act: Any) -> str | Any:
        """What the act gave, or the code of the refusal; a refused request leaves nothing behind."""
        self.now += timedelta(seconds=1)
        nested = self.session.begin_nested()
        try:
            given = act()
        except RegistryError as error:
            nested.rollback()
            return error.code
        nested.commit()
        return given

    def propose(self, act: Any, number: int | None, kind: str, by: str, refusal: str | None) -> None:
        given = self.refused(act)
        if refusal is None and self.policy["freeze"] is not None and kind != "force":
            refusal = "STAGE_FROZEN"
        if refusal is not None:
            assert given == refusal
            return
        assert isinstance(given, Promotion), given
        self.begin(given.id, number, kind, by)

    def begin(self, promotion_id: str, number: int | None, kind: str, by: str) -> Asked:
        each = Asked(promotion_id, number, kind, by, self.now + LIFE)
        said = self.judge(each)
        self.conclude(each, said)
        self.asked.append(each)
        return each

    def consider(self, number: int) -> None:
        self.refused(lambda: automation.consider(self.session, self.row(number).id, stages=STAGES, now=self.now))
        for each in self.pending:
            if each.number == number:
                self.settle(each)
        self.ask(number)

    def ask(self, number: int) -> Asked | None:
        version = self.known[number]
        if self.policy["auto"] is None or self.policy["freeze"] is not None:
            return None
        if not version.is_good or version.value is None or any(each.number == number for each in self.history):
            return None
        before = [each for each in self.asked if each.number == number and each.kind == "auto"]
        if before:
            said = self.verdicts(number, "auto")
            if before[-1].state == "pending" or before[-1].seen[:2] == (len(self.history), said):
                return None
        rows = self.session.scalars(select(Promotion.id).where(Promotion.number == number, Promotion.kind == "auto"))
        [fresh] = set(rows) - {each.id for each in self.asked}
        return self.begin(fresh, number, "auto", "system")

    @initialize(data=st.data())
    def a_model_and_its_policy_are_there(self, data: Any) -> None:
        for _ in range(3):
            self.publish("verified", 0.3)
        self.policy = {part: data.draw(values) for part, values in PARTS.items()}
        self.an_admin_changes_the_policy(data, "auto", seen=True)

    @rule(integrity=st.sampled_from(["verified", "unverified"]), value=st.none() | VALUES)
    def publish(self, integrity: str, value: float | None) -> None:
        if len(self.known) < 8:
            row = make_version(self.session, self.model, integrity=integrity)
            self.known[row.number] = Known(integrity)
            if value is not None:
                self.measure(row.number, value)

    def measure(self, number: int, value: float) -> None:
        row = {"version_id": self.row(number).id, "name": "mAP", "value": value, "dataset": "coco"}
        self.session.execute(insert(Metric), [row | {"recorded_by": UPLOADER, "recorded_at": self.now}])
        self.known[number].value = value

    @rule(data=st.data(), value=VALUES, seen=st.booleans())
    def a_metric_arrives(self, data: Any, value: float, seen: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))
        self.measure(number, value)
        if seen:
            self.consider(number)

    @rule(data=st.data(), good=st.booleans(), seen=st.booleans())
    def a_proof_arrives(self, data: Any, good: bool, seen: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))
        if self.known[number].integrity == "unverified" or (not good and number != self.holder):
            integrity = "verified" if good else "damaged"
            self.known[number].integrity = self.row(number).integrity = integrity
            self.session.flush()
            if seen:
                self.consider(number)

    @rule(data=st.data())
    def a_tag_is_set(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))
        if not self.known[number].checked:
            self.session.add(VersionTag(version_id=self.row(number).id, key="checked", value="yes"))
            self.session.flush()
            self.known[number].checked = True

    @rule(data=st.data(), by=st.sampled_from(["rita", "pat"]), then=APPROVERS | st.just([]))
    def somebody_asks(self, data: Any, by: str, then: list[str]) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))
        before = len(self.asked)

        def act() -> Promotion:
            return proposing.promote(
                self.session, self.people[by], self.model, STAGE, number, stages=STAGES, now=self.now
            )

        self.propose(act, number, "promote", by, self.why_not(number))
        for each in self.asked[before:]:
            for name in then:
                self.approve(each, name)

    @rule(data=st.data())
    def an_admin_forces(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))

        def act() -> Promotion:
            return proposing.promote(
                self.session, self.people["max"], self.model, STAGE, number,
                stages=STAGES, now=self.now, kind="force", message="it burns",
            )  # fmt: skip

        self.propose(act, number, "force", "max", self.why_not(number))

    @rule()
    def somebody_empties(self) -> None:
        def act() -> Promotion:
            return proposing.demote(self.session, self.people["rita"], self.model, STAGE, stages=STAGES, now=self.now)

        self.propose(act, None, "demote", "rita", "STAGE_EMPTY" if self.holder is None else None)

    @rule()
    def somebody_goes_back(self) -> None:
        earlier = [each.number for each in self.history if each.number != self.holder]
        good = [number for number in earlier if number and self.known[number].is_good]
        self.go_back(None, good[-1] if good else None, None if good else "NOTHING_TO_ROLL_BACK")

    @rule(data=st.data())
    def somebody_goes_back_to(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))
        held = number != self.holder and any(each.number == number for each in self.history)
        self.go_back(number, number, self.why_not(number) if held else "NOT_A_FORMER_HOLDER")

    def go_back(self, to: int | None, number: int | None, refusal: str | None) -> None:
        def act() -> Promotion:
            return proposing.rollback(
                self.session, self.people["rita"], self.model, STAGE, to, stages=STAGES, now=self.now
            )

        self.propose(act, number, "rollback", "rita", refusal)

    def why_not(self, number: int) -> str | None:
        version = self.known[number]
        return "VERSION_TRASHED" if version.is_trashed else None if version.is_good else "VERSION_DAMAGED"

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), by=APPROVERS)
    def some_approve(self, data: Any, by: list[str]) -> None:
        each = data.draw(st.sampled_from(self.pending or self.asked[-8:]))
        for name in by:
            self.approve(each, name)

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), by=APPROVERS, then=APPROVERS, part=st.sampled_from(["approvals", "gates", "freeze"]))
    def some_approve_the_policy_changes_and_others_approve(
        self, *, data: Any, by: list[str], then: list[str], part: str
    ) -> None:
        each = self.pending[-1]
        for name in by:
            self.approve(each, name)
        self.an_admin_changes_the_policy(data, part, seen=data.draw(st.booleans()))
        for name in then:
            self.approve(each, name)

    def approve(self, each: Asked, by: str) -> None:
        given = self.refused(
            lambda: deciding.approve(self.session, self.people[by], each.id, stages=STAGES, now=self.now)
        )  # fmt: skip
        if each.state != "pending" or each.expires <= self.now:
            assert given == "PROMOTION_CLOSED"
            return
        asked = self.policy["approvals"]
        counts = by != each.by and (by != UPLOADER or each.number is None)
        if asked is not None and counts:
            counts = by in asked["users"] if "users" in asked else asked.get("role") != "admin" or by == "max"
        if not counts:
            assert given == "NOT_AN_APPROVER"
            return
        assert not isinstance(given, str), given
        said = self.judge(each)
        each.approved += [by] if by not in each.approved else []
        self.conclude(each, said)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), by=st.sampled_from(["pat", "rita", "max"]), rejects=st.booleans())
    def somebody_ends_it(self, data: Any, by: str, rejects: bool) -> None:
        each = data.draw(st.sampled_from(self.asked[-8:]))
        act = deciding.reject if rejects else deciding.cancel
        given = self.refused(lambda: act(self.session, self.people[by], each.id, now=self.now))
        if each.state != "pending" or each.expires <= self.now:
            assert given == "PROMOTION_CLOSED"
        elif not rejects and by not in (each.by, "max"):
            assert given == "PERMISSION_DENIED"
        else:
            each.state = "rejected" if rejects else "cancelled"
            each.approved = [name for name in each.approved if name != by or not rejects]

    @rule(data=st.data())
    def somebody_trashes_or_restores(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))
        version, max_ = self.known[number], self.people["max"]
        act = versions.restore if version.is_trashed else versions.trash
        given = self.refused(lambda: act(self.session, max_, self.row(number), now=self.now))
        if not version.is_trashed and number == self.holder:
            assert given == "VERSION_IN_USE"
            return
        assert not isinstance(given, str), given
        version.is_trashed = not version.is_trashed

    @rule(data=st.data(), part=st.sampled_from(sorted(PARTS)), seen=st.booleans())
    def an_admin_changes_the_policy(self, data: Any, part: str, seen: bool) -> None:
        self.policy = self.policy | {part: data.draw(PARTS[part])}
        change = Change(self.policy | {"expires_s": int(LIFE.total_seconds())})
        max_ = self.people["max"]
        self.refused(
            lambda: policies.set_for_model(
                self.session, max_, self.model, STAGE, change, stages=STAGES, now=self.now
            )
        )  # fmt: skip
        if seen:
            self.refused(
                lambda: automation.consider_stage(self.session, self.model.id, STAGE, stages=STAGES, now=self.now)
            )
            for each in self.pending:
                self.settle(each)
            measured = {number: version.value for number, version in self.known.items() if version.value is not None}
            for number in sorted(measured, key=lambda number: (measured[number], number), reverse=True):
                if not self.known[number].is_trashed:
                    asked = self.ask(number)
                    if asked is None or asked.state != "failed":
                        return

    @rule(seconds=st.sampled_from([1, 60, 110]), swept=st.booleans())
    def time_passes(self, seconds: int, swept: bool) -> None:
        self.now += timedelta(seconds=seconds)
        if swept:
            self.refused(lambda: deciding.expire(self.session, limit=100, now=self.now))
            for each in self.pending:
                each.state = "expired" if each.expires <= self.now else each.state

    # What holds whatever was done.

    @invariant()
    def the_database_says_what_the_rules_say(self) -> None:
        self.session.flush()
        rows = {row.id: row for row in self.session.scalars(select(Promotion).where(Promotion.stage == STAGE))}
        said = {each.id: (each.number, each.kind, each.state, each.seq) for each in self.asked}
        assert {row.id: (row.number, row.kind, row.state, row.seq) for row in rows.values()} == said
        for each in self.pending:
            assert [one.user_name for one in deciding.counting(self.session, rows[each.id])] == each.approved

    @invariant()
    def the_history_is_one_line_and_its_end_is_the_holder(self) -> None:
        entries = promotions.history(self.session, self.model, STAGE, before=None, limit=1_000)[::-1]
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert [entry.previous for entry in entries] == [None, *(entry.number for entry in entries)][: len(entries)]
        times = [entry.decided_at for entry in entries if entry.decided_at is not None]
        assert times == sorted(times)
        pointers = self.session.scalars(select(Pointer).where(Pointer.model_id == self.model.id)).all()
        assert [(each.number, each.seq) for each in pointers] == [(each.number, each.seq) for each in entries[-1:]]
        assert not any(self.known[each.number].is_trashed for each in pointers if each.number)

    @invariant()
    def only_what_was_applied_has_a_place_in_the_history(self) -> None:
        unplaced = select(Promotion.id).where((Promotion.state == "applied") != Promotion.seq.is_not(None))
        assert self.session.scalars(unplaced).all() == []

    @invariant()
    def nobody_approves_what_they_asked_for_or_uploaded(self) -> None:
        query = select(Approval.user_name, Promotion.requested_by, Promotion.number).where(
            Approval.promotion_id == Promotion.id, Approval.decision == "approve"
        )
        for by, requester, number in self.session.execute(query):
            assert by != requester
            assert number is None or by != UPLOADER


FEW = pytest.param((100, 40), id="few")
MANY = pytest.param((1_000, 60), id="many", marks=[pytest.mark.soak, pytest.mark.timeout(7_200)])


@pytest.mark.parametrize("size", [FEW, MANY])
def test_a_stage_does_what_the_rules_say(database: Database, admin: object, size: tuple[int, int]):
    examples, steps = size

    class OnDatabase(Stage):
        pass

    OnDatabase.database = database
    run_state_machine_as_test(
        OnDatabase,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
