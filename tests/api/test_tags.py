import pytest

from tests.support.factories import make_model, make_version
from tests.support.world import code


@pytest.fixture(autouse=True)
def model(app, database):
    with database.transaction() as session:
        found = make_model(session, "vision/yolo")
        make_version(session, found)
        make_version(session, found, state="trashed")


MODEL = "/models/vision/yolo"
VERSION = f"{MODEL}/versions/1"


@pytest.mark.parametrize("thing", [MODEL, VERSION])
def test_tags_are_set_shown_and_removed(http, thing):
    put = http.put(f"{thing}/tags/team", json={"value": "vision"})
    assert (put.status_code, put.json) == (200, {"value": "vision"})
    http.put(f"{thing}/tags/licence", json={"value": "AGPL"})
    http.put(f"{thing}/tags/team", json={"value": "speech"})
    assert http.get(thing).json["tags"] == {"licence": "AGPL", "team": "speech"}
    removed = http.delete(f"{thing}/tags/team")
    assert (removed.status_code, removed.data) == (204, b"")
    assert http.get(thing).json["tags"] == {"licence": "AGPL"}
    assert code(http.delete(f"{thing}/tags/team")) == (404, "TAG_NOT_FOUND")


@pytest.mark.parametrize("thing", [MODEL, VERSION])
def test_a_key_may_be_any_label(http, thing):
    for key, path in (("a/b c", "a%2Fb%20c"), ("Größe", "Gr%C3%B6%C3%9Fe"), ("tags", "tags")):
        assert http.put(f"{thing}/tags/{path}", json={"value": key}).status_code == 200
        assert http.get(thing).json["tags"] == {key: key}
        assert http.delete(f"{thing}/tags/{path}").status_code == 204


@pytest.mark.parametrize("thing", [MODEL, VERSION])
@pytest.mark.parametrize(
    ("key", "sent", "refusal"),
    [
        ("a%3Db", {"value": "1"}, (422, "INVALID_TAG")),
        ("a%00", {"value": "1"}, (422, "INVALID_TAG")),
        ("a" * 251, {"value": "1"}, (422, "INVALID_TAG")),
        ("a", {"value": "x" * 8_001}, (422, "INVALID_TAG")),
        ("a", {"value": 1}, (422, "INVALID_BODY")),
    ],
)
def test_a_malformed_tag_is_refused(http, thing, key, sent, refusal):
    assert code(http.put(f"{thing}/tags/{key}", json=sent)) == refusal
    assert http.get(thing).json["tags"] == {}


def test_a_tag_needs_something_to_hang_on(http):
    assert code(http.put(f"{MODEL}/versions/2/tags/a", json={"value": "1"})) == (410, "VERSION_TRASHED")
    assert code(http.put(f"{MODEL}/versions/9/tags/a", json={"value": "1"})) == (404, "VERSION_NOT_FOUND")
    assert code(http.put("/models/vision/other/tags/a", json={"value": "1"})) == (404, "MODEL_NOT_FOUND")


@pytest.mark.parametrize("thing", [MODEL, VERSION])
def test_a_reader_writes_no_tags(http, make_token, thing):
    reader = make_token("ana", "reader", "vision")
    assert code(http.put(f"{thing}/tags/a", json={"value": "1"}, token=reader)) == (403, "PERMISSION_DENIED")
    assert code(http.delete(f"{thing}/tags/a", token=reader)) == (403, "PERMISSION_DENIED")
