import pytest

from registry.domain.access import Scope
from tests.support.world import code

NOTHING = dict.fromkeys(
    ("logical_bytes", "stored_bytes", "objects", "segments", "whole_bytes", "whole_objects"), 0
)  # fmt: skip


def test_an_administrator_measures_the_registry_and_a_reader_a_namespace(http, make_token):
    secret = make_token("ana", "reader", "vision")
    assert http.get("/storage").json == NOTHING
    assert http.get("/storage?namespace=vision", token=secret).json == NOTHING


@pytest.mark.parametrize(
    ("query", "refusal"),
    [
        ("", (403, "PERMISSION_DENIED")),
        ("?namespace=default", (404, "NAMESPACE_NOT_FOUND")),
        ("?namespace=a%00b", (404, "NAMESPACE_NOT_FOUND")),
    ],
)
def test_what_is_not_ones_own_is_not_measured(http, make_token, query, refusal):
    assert code(http.get(f"/storage{query}", token=make_token("ana", "reader", "vision"))) == refusal


def test_a_token_for_some_models_measures_nothing(http, make_token):
    secret = make_token("ana", "reader", "vision", scope=Scope(models="vision/*"))
    assert code(http.get("/storage?namespace=vision", token=secret)) == (403, "PERMISSION_DENIED")
