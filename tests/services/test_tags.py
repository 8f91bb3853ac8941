import pytest

from registry.domain.names import InvalidTagError
from registry.services import tags, versions
from registry.services.actors import PermissionDeniedError
from registry.services.tags import MAX_TAGS, TagNotFoundError, TooManyTagsError
from tests.support.factories import events, make_model, make_version
from tests.support.world import T0


@pytest.fixture
def model(session):
    return make_model(session)


@pytest.fixture
def version(session, model):
    return make_version(session, model)


def test_tags_of_a_version_are_set_changed_and_removed_one_by_one(session, admin, version):
    tags.set_on_version(session, admin, version, {"team": "vision", "note": "two\nlines"}, now=T0)
    tags.set_on_version(session, admin, version, {"team": "speech"}, now=T0)
    assert versions.tags_of(session, version) == {"note": "two\nlines", "team": "speech"}
    tags.remove_from_version(session, admin, version, "note", now=T0)
    assert versions.tags_of(session, version) == {"team": "speech"}


def test_tags_of_a_model_are_set_changed_and_removed_one_by_one(session, admin, model):
    other = make_model(session, "default/n")
    tags.set_on_model(session, admin, model, {"a": "1", "b": "2"}, now=T0)
    tags.set_on_model(session, admin, other, {"a": "3"}, now=T0)
    tags.set_on_model(session, admin, model, {"a": "4"}, now=T0)
    tags.remove_from_model(session, admin, model, "b", now=T0)
    assert tags.of_models(session, [model.id, other.id]) == {model.id: {"a": "4"}, other.id: {"a": "3"}}
    assert tags.of_models(session, []) == {}


def test_only_what_changes_is_an_event(session, admin, model, version):
    tags.set_on_version(session, admin, version, {"a": "1", "b": "2"}, now=T0)
    tags.set_on_version(session, admin, version, {"a": "1", "b": "3"}, now=T0)
    tags.set_on_version(session, admin, version, {"a": "1"}, now=T0)
    tags.remove_from_version(session, admin, version, "a", now=T0)
    tags.set_on_model(session, admin, model, {"a": "1"}, now=T0)
    tags.set_on_model(session, admin, model, {"a": "1"}, now=T0)
    tags.remove_from_model(session, admin, model, "a", now=T0)
    assert events(session, "version:tag", "version:untag", "model:tag", "model:untag") == [
        ("version:tag", "default/m:1", {"tags": {"a": "1", "b": "2"}}),
        ("version:tag", "default/m:1", {"tags": {"b": "3"}}),
        ("version:untag", "default/m:1", {"key": "a"}),
        ("model:tag", "default/m", {"tags": {"a": "1"}}),
        ("model:untag", "default/m", {"key": "a"}),
    ]


def test_an_event_repeats_no_long_text(session, admin, version):
    tags.set_on_version(session, admin, version, {"card": "x" * 8_000}, now=T0)
    [(_, _, detail)] = events(session, "version:tag")
    assert len(detail["tags"]["card"]) == 250
    assert versions.tags_of(session, version) == {"card": "x" * 8_000}


@pytest.mark.parametrize(
    "malformed",
    [{"": "1"}, {"a=b": "1"}, {" a": "1"}, {"a" * 251: "1"}, {"a": "\0"}, {"a": "x" * 8_001}],
)
def test_a_malformed_tag_is_refused_and_no_other_of_the_same_request_is_set(session, admin, version, malformed):
    with pytest.raises(InvalidTagError):
        tags.set_on_version(session, admin, version, {"fine": "1"} | malformed, now=T0)
    with pytest.raises(InvalidTagError):
        tags.set_on_model(session, admin, version.model, {"fine": "1"} | malformed, now=T0)
    assert versions.tags_of(session, version) == {}


def test_the_number_of_tags_is_bounded(session, admin, model, version):
    full = {f"k{index}": "" for index in range(MAX_TAGS)}
    for put, thing in ((tags.set_on_version, version), (tags.set_on_model, model)):
        put(session, admin, thing, full, now=T0)
        put(session, admin, thing, {"k0": "changed"}, now=T0)
        with pytest.raises(TooManyTagsError):
            put(session, admin, thing, {"one more": ""}, now=T0)


def test_a_tag_that_is_not_there_cannot_be_removed(session, admin, model, version):
    with pytest.raises(TagNotFoundError):
        tags.remove_from_version(session, admin, version, "a", now=T0)
    with pytest.raises(TagNotFoundError):
        tags.remove_from_model(session, admin, model, "a", now=T0)


def test_a_version_in_the_trash_takes_no_tags(session, admin, model):
    trashed = make_version(session, model, state="trashed")
    with pytest.raises(versions.VersionTrashedError):
        tags.set_on_version(session, admin, trashed, {"a": "1"}, now=T0)
    with pytest.raises(versions.VersionTrashedError):
        tags.remove_from_version(session, admin, trashed, "a", now=T0)


def test_a_reader_writes_no_tags(session, model, version, make_actor):
    reader = make_actor("ana", "reader")
    for put, thing in ((tags.set_on_version, version), (tags.set_on_model, model)):
        with pytest.raises(PermissionDeniedError):
            put(session, reader, thing, {"a": "1"}, now=T0)
    for remove, thing in ((tags.remove_from_version, version), (tags.remove_from_model, model)):
        with pytest.raises(PermissionDeniedError):
            remove(session, reader, thing, "a", now=T0)
