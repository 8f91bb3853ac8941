import base64

import pytest

from registry.domain.lineage import Relation
from registry.services import lineage
from registry.services.lineage import ResolvedParent
from tests.support.factories import make_model, make_version
from tests.support.world import code


@pytest.fixture(autouse=True)
def family(app, database):
    """hf://org/base → yolo:1 → yolo:2 → secret:1 → yolo:3, and yolo:1 → yolo:4."""
    with database.transaction() as session:
        yolo, secret = make_model(session, "vision/yolo"), make_model(session, "secret/m")
        one, two, hidden, three, four = (make_version(session, each) for each in (yolo, yolo, secret, yolo, yolo))
        lineage.insert(session, one, [ResolvedParent(Relation.DISTILL, uri="hf://org/base")])
        for child, parent in ((two, one), (hidden, two), (three, hidden), (four, one)):
            lineage.insert(session, child, [ResolvedParent(Relation.FINETUNE, parent)])


def path(number, query=""):
    return f"/models/vision/yolo/versions/{number}/lineage{query}"


def edges(items):
    return [(item["depth"], item["child"], item["parent"] or item["uri"]) for item in items]


def test_lineage_goes_up_to_what_a_version_was_made_from(http):
    items = http.items(path(2))
    assert edges(items) == [(1, "vision/yolo:2", "vision/yolo:1"), (2, "vision/yolo:1", "hf://org/base")]
    assert [item["relation"] for item in items] == ["finetune", "distill"]


def test_lineage_goes_down_to_what_was_made_from_a_version(http):
    assert edges(http.items(path(1, "?direction=down"), limit=2)) == [
        (1, "vision/yolo:2", "vision/yolo:1"),
        (1, "vision/yolo:4", "vision/yolo:1"),
        (2, "secret/m:1", "vision/yolo:2"),
        (3, "vision/yolo:3", "secret/m:1"),
    ]


def test_lineage_goes_as_deep_as_asked(http):
    assert len(http.items(path(3))) == 4
    assert edges(http.items(path(3, "?depth=1"))) == [(1, "vision/yolo:3", "secret/m:1")]


def test_names_of_models_that_one_may_not_read_are_null(http, make_token):
    reader = make_token("ana", "reader", "vision")
    assert edges(http.items(path(3), token=reader))[:2] == [(1, "vision/yolo:3", None), (2, None, "vision/yolo:2")]


@pytest.mark.parametrize("query", ["?direction=sideways", "?depth=0", "?depth=21", "?depth=x", "?limit=0"])
def test_a_malformed_question_is_refused(http, query):
    assert code(http.get(path(1, query))) == (422, "INVALID_PARAMETER")


def test_a_cursor_from_elsewhere_is_refused(http):
    cursor = base64.urlsafe_b64encode(b"[1099511627776, 1]").decode()
    assert code(http.get(path(1, f"?cursor={cursor}"))) == (422, "INVALID_CURSOR")


def test_lineage_of_what_is_not_there_is_not_found(http):
    assert code(http.get(path(9))) == (404, "VERSION_NOT_FOUND")
    assert code(http.get("/models/vision/other/versions/1/lineage")) == (404, "MODEL_NOT_FOUND")
