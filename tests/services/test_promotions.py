from datetime import timedelta

import pytest
from sqlalchemy import select

from registry.db.tables import Pointer, Promotion
from registry.domain.errors import VersionDamagedError
from registry.domain.references import parse_reference
from registry.services import pointers, promotions, proposing, versions
from registry.services.actors import PermissionDeniedError
from registry.services.pointers import StageNotFoundError
from registry.services.promotions import Expected, PromotionNotFoundError, StageMovedError
from registry.services.proposing import NotAFormerHolderError, NothingToRollBackError, StageEmptyError
from registry.services.versions import VersionNotFoundError, VersionPurgedError, VersionTrashedError
from tests.support.factories import events, make_model, make_version, make_versions
from tests.support.world import T0

STAGES = ("staging", "production")


@pytest.fixture
def model(session):
    found = make_model(session)
    make_versions(session, found, 4)
    return found


@pytest.fixture
def move(session, admin, model):
    def promote(number, *, actor=admin, stage="production", now=T0, **more):
        if number is None:
            return proposing.demote(session, actor, model, stage, stages=STAGES, now=now, **more)
        return proposing.promote(session, actor, model, stage, number, stages=STAGES, now=now, **more)

    return promote


@pytest.fixture
def back(session, admin, model):
    def rollback(to=None, *, actor=admin, **more):
        return proposing.rollback(session, actor, model, "production", to, stages=STAGES, now=T0, **more)

    return rollback


def holders(session, model):
    return [
        entry.number for entry in reversed(promotions.history(session, model, "production", before=None, limit=100))
    ]


def test_a_promotion_makes_the_version_the_holder(session, admin, model, move):
    promotion = move(2, message="better")
    assert (promotion.state, promotion.kind, promotion.number, promotion.previous) == ("applied", "promote", 2, None)
    assert (promotion.seq, promotion.base_seq) == (1, 0)
    assert versions.resolve(session, admin, parse_reference("m@production")).number == 2
    pointer = pointers.find_stage(session, model, "production")
    assert pointer is not None
    assert (pointer.number, pointer.seq, pointer.moved_by, pointer.moved_at) == (2, 1, "admin", T0)


def test_each_move_is_one_entry_numbered_from_one(session, model, move):
    for number in (1, 2, 3):
        move(number)
    entries = promotions.history(session, model, "production", before=None, limit=100)
    assert [(entry.seq, entry.number, entry.previous) for entry in entries] == [(3, 3, 2), (2, 2, 1), (1, 1, None)]


def test_stages_have_histories_of_their_own(session, model, move):
    move(1, stage="staging")
    assert move(1).seq == 1
    assert [entry.seq for entry in promotions.history(session, model, "staging", before=None, limit=9)] == [1]


def test_promoting_the_present_holder_again_is_a_renewed_decision(session, model, move):
    move(1)
    again = move(1, message="confirmed after the audit")
    assert (again.seq, again.number, again.previous) == (2, 1, 1)
    assert holders(session, model) == [1, 1]


def test_a_move_is_an_event_in_the_chain_of_the_namespace(session, move):
    promotion = move(2, message="better")
    detail = {"id": promotion.id, "kind": "promote", "number": 2, "previous": None, "seq": 1, "message": "better"}
    assert events(session, "promotion:apply") == [("promotion:apply", "default/m@production", detail)]


def test_checkpoints_and_variants_may_be_promoted(session, model, move):
    checkpoint = make_version(session, model, kind="checkpoint", variant="onnx-int8", integrity="unverified")
    assert move(checkpoint.number).state == "applied"


@pytest.mark.parametrize(
    ("expected", "passes"),
    [
        (Expected(holder=2), True),
        (Expected(seq=2), True),
        (Expected(holder=2, seq=2), True),
        (Expected(holder=1), False),
        (Expected(holder=0), False),
        (Expected(holder=2, seq=1), False),
        (Expected(holder=1, seq=2), False),
    ],
)
def test_a_stage_that_is_not_as_expected_is_left_alone(session, model, move, expected, passes):
    move(1)
    move(2)
    if passes:
        assert move(3, expected=expected).seq == 3
        return
    with pytest.raises(StageMovedError) as refused:
        move(3, expected=expected)
    assert refused.value.details == {"holder": 2, "seq": 2, "by": "admin", "at": "2026-01-02T03:04:05.000000Z"}
    assert holders(session, model) == [1, 2]


def test_zero_expects_an_empty_stage(move):
    assert move(1, expected=Expected(holder=0, seq=0)).seq == 1
    move(None)
    assert move(2, expected=Expected(holder=0)).seq == 3
    with pytest.raises(StageMovedError):
        move(3, expected=Expected(holder=0))


def test_what_an_empty_stage_holds_is_told_as_nothing(move):
    with pytest.raises(StageMovedError) as refused:
        move(2, expected=Expected(holder=1))
    assert refused.value.details == {"holder": None, "seq": 0, "by": None, "at": None}


def test_seq_guards_against_a_stage_that_moved_away_and_back(move):
    move(1)
    move(2)
    move(1)
    assert move(3, expected=Expected(holder=1)).seq == 4
    with pytest.raises(StageMovedError):
        move(4, expected=Expected(holder=3, seq=1))


def test_only_ready_and_intact_versions_hold_a_stage(session, model, move):
    refusals = {
        make_version(session, model, state="trashed").number: VersionTrashedError,
        make_version(session, model, state="purged").number: VersionPurgedError,
        make_version(session, model, integrity="damaged").number: VersionDamagedError,
        99: VersionNotFoundError,
    }
    for number, error in refusals.items():
        with pytest.raises(error):
            move(number)
    assert session.scalar(select(Pointer)) is None
    assert session.scalar(select(Promotion)) is None


def test_an_unknown_stage_does_not_come_to_be(session, move, model, admin):
    with pytest.raises(StageNotFoundError):
        move(1, stage="canary")
    with pytest.raises(StageNotFoundError):
        proposing.rollback(session, admin, model, "canary", None, stages=STAGES, now=T0)


def test_a_demotion_empties_the_stage(session, admin, model, move):
    move(1)
    demotion = move(None)
    assert (demotion.kind, demotion.number, demotion.previous, demotion.seq) == ("demote", None, 1, 2)
    with pytest.raises(versions.PointerNotFoundError):
        versions.resolve(session, admin, parse_reference("m@production"))
    with pytest.raises(StageEmptyError):
        move(None)


def test_what_a_stage_holds_cannot_be_trashed_until_it_is_demoted(session, admin, move):
    move(1)
    version = versions.resolve(session, admin, parse_reference("m:1"))
    with pytest.raises(versions.VersionInUseError) as refused:
        versions.trash(session, admin, version, now=T0)
    assert refused.value.details["reasons"] == ["stage production"]
    move(None)
    session.flush()
    assert versions.trash(session, admin, version, now=T0).state == "trashed"


def test_a_rollback_returns_to_the_holder_before(session, model, move, back):
    move(1)
    move(2)
    promotion = back(message="it drifts")
    assert (promotion.kind, promotion.number, promotion.previous, promotion.seq) == ("rollback", 1, 2, 3)
    assert holders(session, model) == [1, 2, 1]


def test_a_rollback_looks_past_renewals_and_demotions(session, model, move, back):
    for number in (1, 2, 2):
        move(number)
    assert back().number == 1
    move(None)
    assert back().number == 1


def test_a_rollback_looks_past_holders_that_are_gone_or_damaged(session, admin, model, move, back):
    for number in (1, 2, 3, 4):
        move(number)
    versions.trash(session, admin, versions.resolve(session, admin, parse_reference("m:3")), now=T0)
    versions.resolve(session, admin, parse_reference("m:2")).integrity = "damaged"
    session.flush()
    assert back().number == 1


def test_a_rollback_with_nowhere_to_go_is_refused(session, model, move, back):
    with pytest.raises(NothingToRollBackError):
        back()
    move(1)
    move(1)
    with pytest.raises(NothingToRollBackError):
        back()
    assert holders(session, model) == [1, 1]


def test_a_rollback_to_a_version_goes_to_any_former_holder(move, back):
    for number in (1, 2, 3):
        move(number)
    assert back(1).number == 1


@pytest.mark.parametrize("number", [2, 3, 99])
def test_a_rollback_to_a_version_that_never_held_the_stage_or_holds_it_is_refused(session, model, move, back, number):
    move(1)
    move(2)
    with pytest.raises(NotAFormerHolderError):
        back(number)
    assert holders(session, model) == [1, 2]


def test_a_rollback_to_a_version_that_is_gone_or_damaged_is_refused(session, admin, move, back):
    for number in (1, 2, 3):
        move(number)
    versions.trash(session, admin, versions.resolve(session, admin, parse_reference("m:1")), now=T0)
    versions.resolve(session, admin, parse_reference("m:2")).integrity = "damaged"
    session.flush()
    with pytest.raises(VersionTrashedError):
        back(1)
    with pytest.raises(VersionDamagedError):
        back(2)


def test_a_rollback_compares_what_was_expected_too(move, back):
    move(1)
    move(2)
    with pytest.raises(StageMovedError):
        back(expected=Expected(holder=1))
    assert back(expected=Expected(holder=2, seq=2)).seq == 3


def test_writers_move_no_stage_and_promoters_do(session, model, move, back, make_actor):
    writer, promoter = make_actor("ana", "writer"), make_actor("bob", "promoter")
    with pytest.raises(PermissionDeniedError):
        move(1, actor=writer)
    assert move(1, actor=promoter).requested_by == "bob"
    move(2, actor=promoter)
    with pytest.raises(PermissionDeniedError):
        back(actor=writer)
    assert back(actor=promoter).number == 1


def test_the_history_tells_who_held_a_stage_at_any_moment(session, model, move):
    for hour, number in ((1, 1), (2, 2), (3, None)):
        move(number, now=T0 + timedelta(hours=hour))

    def held(minutes):
        found = promotions.at(session, model, "production", T0 + timedelta(minutes=minutes))
        return found.seq if found else None

    assert [held(0), held(60), held(119), held(120), held(179), held(999)] == [None, 1, 1, 2, 2, 3]


def test_times_in_a_history_never_run_backwards(session, model, move):
    move(1, now=T0 + timedelta(hours=1))
    move(2, now=T0)
    found = promotions.at(session, model, "production", T0 + timedelta(hours=1))
    assert found is not None
    assert (found.seq, found.decided_at, found.requested_at) == (2, T0 + timedelta(hours=1), T0)
    assert promotions.at(session, model, "production", T0) is None


def test_a_history_comes_in_pages(session, model, move):
    for number in (1, 2, 3, 4):
        move(number)
    first = promotions.history(session, model, "production", before=None, limit=2)
    assert [entry.seq for entry in first] == [4, 3, 2]
    assert [entry.seq for entry in promotions.history(session, model, "production", before=3, limit=2)] == [2, 1]


def test_a_promotion_is_found_by_whoever_reads_its_model(session, model, move, make_actor):
    promotion = move(1)
    session.flush()
    found, owner = promotions.find(session, make_actor("ana", "reader"), promotion.id)
    assert (found.id, owner.id) == (promotion.id, model.id)
    stranger = make_actor("eve", "reader", "elsewhere")
    for actor, promotion_id in ((stranger, promotion.id), (make_actor("ana"), "0" * 32), (make_actor("ana"), "\0")):
        with pytest.raises(PromotionNotFoundError):
            promotions.find(session, actor, promotion_id)
