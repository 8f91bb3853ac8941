from datetime import timedelta

import pytest

from registry.domain.names import InvalidPointerNameError, ReservedNameError
from registry.domain.references import parse_reference
from registry.services import pointers, proposing, versions
from registry.services.actors import PermissionDeniedError
from registry.services.pointers import AliasIsStageError, StageNameTakenError, StageNotFoundError
from registry.services.versions import (
    PointerNotFoundError,
    VersionNotFoundError,
    VersionPurgedError,
    VersionTrashedError,
)
from tests.support.factories import events, make_model, make_version, make_versions
from tests.support.world import T0

STAGES = ("staging", "production")


@pytest.fixture
def model(session):
    found = make_model(session)
    make_versions(session, found, 3)
    return found


def point(session, actor, model, name, number, *, stages=STAGES, now=T0):
    return pointers.point(session, actor, model, name, number, stages=stages, now=now)


def test_an_alias_means_the_version_it_was_pointed_at(session, admin, model):
    point(session, admin, model, "champion", 2)
    assert versions.resolve(session, admin, parse_reference("m@champion")).number == 2
    point(session, admin, model, "champion", 1)
    assert versions.resolve(session, admin, parse_reference("m@champion")).number == 1


def test_an_alias_counts_its_moves_and_says_who_moved_it_when(session, admin, model):
    point(session, admin, model, "champion", 2)
    later = T0 + timedelta(hours=1)
    pointer = point(session, admin, model, "champion", 3, now=later)
    assert (pointer.seq, pointer.moved_by, pointer.moved_at) == (2, "admin", later)


def test_pointing_an_alias_where_it_points_changes_nothing(session, admin, model):
    point(session, admin, model, "champion", 2)
    pointer = point(session, admin, model, "champion", 2, now=T0 + timedelta(hours=1))
    assert (pointer.seq, pointer.moved_at) == (1, T0)
    assert len(events(session, "alias:point")) == 1


def test_moving_and_removing_an_alias_are_events(session, admin, model):
    point(session, admin, model, "champion", 2)
    point(session, admin, model, "champion", 3)
    pointers.remove(session, admin, model, "champion", now=T0)
    assert events(session, "alias:point", "alias:remove") == [
        ("alias:point", "default/m@champion", {"number": 2, "previous": None}),
        ("alias:point", "default/m@champion", {"number": 3, "previous": 2}),
        ("alias:remove", "default/m@champion", {"number": 3}),
    ]


def test_a_removed_alias_means_nothing(session, admin, model):
    point(session, admin, model, "champion", 2)
    pointers.remove(session, admin, model, "champion", now=T0)
    with pytest.raises(PointerNotFoundError):
        pointers.find_alias(session, model, "champion")
    with pytest.raises(PointerNotFoundError):
        pointers.remove(session, admin, model, "champion", now=T0)


@pytest.mark.parametrize("name", STAGES)
def test_an_alias_cannot_take_the_name_of_a_stage(session, admin, model, name):
    with pytest.raises(AliasIsStageError) as refused:
        point(session, admin, model, name, 1)
    assert refused.value.code == "ALIAS_IS_STAGE"


def test_an_alias_cannot_take_the_name_of_a_stage_that_is_configured_no_longer(session, admin, model):
    proposing.promote(session, admin, model, "production", 1, stages=STAGES, now=T0)
    with pytest.raises(AliasIsStageError):
        point(session, admin, model, "production", 2, stages=("staging",))
    with pytest.raises(PointerNotFoundError):
        pointers.remove(session, admin, model, "production", now=T0)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("latest", ReservedNameError),
        ("best", ReservedNameError),
        ("v7", InvalidPointerNameError),
        ("Champion", InvalidPointerNameError),
    ],
)
def test_an_alias_keeps_the_naming_rule(session, admin, model, name, error):
    with pytest.raises(error):
        point(session, admin, model, name, 1)


def test_an_alias_means_ready_versions_only(session, admin, model):
    trashed, purged = make_version(session, model, state="trashed"), make_version(session, model, state="purged")
    for number, error in (
        (trashed.number, VersionTrashedError),
        (purged.number, VersionPurgedError),
        (99, VersionNotFoundError),
    ):
        with pytest.raises(error):
            point(session, admin, model, "champion", number)
    assert pointers.of_model(session, model) == []


def test_what_an_alias_means_cannot_be_trashed(session, admin, model):
    point(session, admin, model, "champion", 2)
    version = versions.resolve(session, admin, parse_reference("m:2"))
    with pytest.raises(versions.VersionInUseError) as refused:
        versions.trash(session, admin, version, now=T0)
    assert refused.value.details["reasons"] == ["alias champion"]


def test_a_reader_points_and_removes_nothing(session, admin, model, make_actor):
    point(session, admin, model, "champion", 2)
    reader = make_actor("ana", "reader")
    with pytest.raises(PermissionDeniedError):
        point(session, reader, model, "champion", 1)
    with pytest.raises(PermissionDeniedError):
        pointers.remove(session, reader, model, "champion", now=T0)


def test_stages_of_many_models_come_with_one_query(session, admin, model):
    other = make_model(session, "default/n")
    make_version(session, other)
    point(session, admin, model, "champion", 1)
    for stage in STAGES:
        proposing.promote(session, admin, model, stage, 1, stages=STAGES, now=T0)
    found = pointers.stages_of(session, [model.id, other.id])
    assert {key: [pointer.name for pointer in held] for key, held in found.items()} == {
        model.id: ["production", "staging"]
    }
    assert [pointer.name for pointer in pointers.of_model(session, model)] == ["champion", "production", "staging"]
    assert pointers.stages_of(session, []) == {}


def test_aliases_are_listed_by_name_without_stages(session, admin, model):
    proposing.promote(session, admin, model, "production", 1, stages=STAGES, now=T0)
    for name in ("c", "a", "b"):
        point(session, admin, model, name, 1)
    page = pointers.page_of_aliases(session, model, after=None, limit=1)
    assert [pointer.name for pointer in page] == ["a", "b"]
    assert [pointer.name for pointer in pointers.page_of_aliases(session, model, after="b", limit=5)] == ["c"]


def test_an_unknown_stage_is_refused_with_those_there_are(model):
    with pytest.raises(StageNotFoundError) as refused:
        pointers.check_stage(model, "canary", STAGES)
    assert refused.value.details["stages"] == ["staging", "production"]


def test_a_new_stage_that_is_an_alias_somewhere_is_refused_listing_the_models(session, admin, model):
    other = make_model(session, "default/n")
    make_version(session, other)
    point(session, admin, model, "canary", 1)
    point(session, admin, other, "canary", 1)
    pointers.check_stage_names(session, STAGES)
    with pytest.raises(StageNameTakenError) as refused:
        pointers.check_stage_names(session, (*STAGES, "canary"))
    assert refused.value.details == {"stage": "canary", "models": ["default/m", "default/n"]}
    with pytest.raises(StageNameTakenError):
        proposing.promote(session, admin, model, "canary", 1, stages=("canary",), now=T0)


def test_a_configured_stage_keeps_the_naming_rule(session):
    with pytest.raises(ReservedNameError):
        pointers.check_stage_names(session, ("latest",))
