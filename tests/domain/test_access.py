from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain import access
from registry.domain.access import (
    FULL_SCOPE,
    Permission,
    Role,
    Scope,
    allows,
    format_scope,
    parse_scope,
    scope_allows,
    scope_within,
)
from registry.domain.names import ModelName

YOLO = ModelName("vision", "yolo11n")
BERT = ModelName("text", "bert")
PATTERNS = st.sampled_from(["*", "read", "version:*", "promotion:*", "model:read", "version:publish", "token:manage"])
GLOBS = st.sampled_from(["*", "*/*", "vision/*", "vision/yolo*", "vision/yolo11n", "text/ber?", "*/bert"])
SCOPES = st.builds(Scope, st.lists(PATTERNS, min_size=1, max_size=3).map(tuple), GLOBS)
ONLY_ADMINISTRATORS = {Permission.NAMESPACE_CREATE, Permission.USER_MANAGE}


def test_roles_are_ordered() -> None:
    assert Role.READER < Role.WRITER < Role.PROMOTER < Role.ADMIN
    assert sorted([Role.ADMIN, Role.PROMOTER, Role.READER, Role.WRITER]) == list(Role)
    assert Role.ADMIN >= Role.PROMOTER


@pytest.mark.parametrize("permission", Permission)
def test_a_higher_role_may_do_all_that_a_lower_may(permission: Permission) -> None:
    allowed = [allows(role, permission) for role in (None, *Role)]
    assert allowed == sorted(allowed)


@pytest.mark.parametrize("permission", Permission)
def test_every_permission_has_its_place(permission: Permission) -> None:
    assert allows(Role.ADMIN, permission) is (permission not in ONLY_ADMINISTRATORS)
    assert allows(None, permission, administrator=True)


@pytest.mark.parametrize("permission", Permission)
def test_a_reader_changes_nothing_of_the_namespace(permission: Permission) -> None:
    own = permission in (Permission.TOKEN_MANAGE, Permission.CONSUMER_REPORT)
    assert allows(Role.READER, permission) is (permission.endswith(":read") or own)


def test_without_a_role_there_is_only_searching_and_ones_own_tokens() -> None:
    assert {each for each in Permission if allows(None, each)} == {Permission.SEARCH_READ, Permission.TOKEN_MANAGE}


@pytest.mark.parametrize(
    ("permission", "least"),
    [
        (Permission.VERSION_READ, Role.READER), (Permission.EVENT_READ, Role.READER),
        (Permission.MODEL_CREATE, Role.WRITER), (Permission.VERSION_PUBLISH, Role.WRITER),
        (Permission.ALIAS_POINT, Role.WRITER), (Permission.VERSION_TRASH, Role.WRITER),
        (Permission.PROMOTION_REQUEST, Role.PROMOTER), (Permission.PROMOTION_DECIDE, Role.PROMOTER),
        (Permission.PROMOTION_FORCE, Role.ADMIN), (Permission.NAMESPACE_GRANT, Role.ADMIN),
    ],
)  # fmt: skip
def test_the_least_role_for_a_permission(permission: Permission, least: Role) -> None:
    assert [role for role in Role if allows(role, permission)] == [role for role in Role if role >= least]


@pytest.mark.parametrize(
    ("actions", "permission", "allowed"),
    [
        (("*",), Permission.USER_MANAGE, True),
        (("read",), Permission.VERSION_READ, True),
        (("read",), Permission.VERSION_PUBLISH, False),
        (("version:*",), Permission.VERSION_TRASH, True),
        (("version:*",), Permission.METRIC_RECORD, False),
        (("version:publish", "upload:write"), Permission.UPLOAD_WRITE, True),
        ((), Permission.VERSION_READ, False),
    ],
)
def test_a_token_may_do_what_its_actions_say(
    actions: tuple[str, ...], permission: Permission, *, allowed: bool
) -> None:
    assert scope_allows(Scope(actions), permission, model=YOLO) is allowed


@pytest.mark.parametrize(
    ("glob", "model", "allowed"),
    [
        ("*", BERT, True), ("*/*", BERT, True), ("vision/*", YOLO, True), ("vision/*", BERT, False),
        ("vision/yolo*", YOLO, True), ("vis*", YOLO, False),
        ("vision/yolo11?", YOLO, True), ("vision/yolo11n", YOLO, True), ("vision/yolo", YOLO, False),
        ("VISION/Yolo*", YOLO, True), ("vision/a_b", ModelName("Vision", "A.b"), True), ("v*n", YOLO, False),
    ],
)  # fmt: skip
def test_a_tokens_models_are_matched_as_names_are_looked_up(glob: str, model: ModelName, *, allowed: bool) -> None:
    scope = parse_scope({"models": glob})
    assert scope_allows(scope, Permission.VERSION_READ, model=model) is allowed


def test_a_token_for_some_models_does_nothing_beside_them() -> None:
    scope = Scope(models="vision/*")
    allowed = {each for each in Permission if scope_allows(scope, each, model=None)}
    assert allowed == {Permission.MODEL_READ, Permission.SEARCH_READ}
    assert all(scope_allows(FULL_SCOPE, each, model=None) for each in Permission)


@given(SCOPES)
def test_a_scope_reads_back_as_it_was_written(scope: Scope) -> None:
    again = parse_scope(format_scope(scope))
    assert (set(again.actions), again.models) == (set(scope.actions), scope.models)


@given(SCOPES, SCOPES, st.sampled_from(Permission), st.sampled_from([None, YOLO, BERT]))
def test_a_token_within_another_may_do_nothing_more(
    inner: Scope, outer: Scope, permission: Permission, model: ModelName | None
) -> None:
    if scope_within(inner, outer) and scope_allows(inner, permission, model=model):
        assert scope_allows(outer, permission, model=model)


@given(SCOPES)
def test_a_scope_is_within_itself_and_within_the_full_one(scope: Scope) -> None:
    assert scope_within(scope, scope)
    assert scope_within(scope, FULL_SCOPE)


def test_a_scope_that_says_nothing_is_full() -> None:
    assert parse_scope({}) == FULL_SCOPE


@pytest.mark.parametrize(
    "document",
    [
        None, [], "read", {"action": ["read"]}, {"actions": []}, {"actions": "read"}, {"actions": ["write"]},
        {"actions": ["version:destroy"]}, {"actions": ["publish"]}, {"actions": [1]}, {"actions": ["*"] * 65},
        {"models": ""}, {"models": 1}, {"models": "a/b/c"}, {"models": "[a]/b"}, {"models": "a/" + "*" * 9},
        {"models": "a/" + "b" * 97}, {"models": "/a"}, {"models": "a/"}, {"models": "a b"}, {"models": "a\n"},
    ],
)  # fmt: skip
def test_a_malformed_scope_is_refused(document: Any) -> None:
    with pytest.raises(access.InvalidScopeError):
        parse_scope(document)


def test_a_bare_glob_is_in_the_default_namespace() -> None:
    assert parse_scope({"models": "yolo*"}).models == "default/yolo*"
