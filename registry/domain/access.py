"""Who may do what. A right is a role in a namespace; a token carries a part of its user's rights, never more.

Roles are ordered, each may do all that the one before it may:

    reader     reads everything in the namespace, and says which version it runs
    writer     creates models; pushes, copies, trashes and restores versions; metrics, tags, aliases
    promoter   moves stages: requests, decides and rolls back promotions, within the stages' policies
    admin      sets policies and stages, overrides them (force), manages webhooks, grants roles

A global administrator may do everything everywhere, and alone creates namespaces and manages users. Whoever is signed
in may search (what they can read) and manage their own tokens. Permissions are asked for by routes; nothing is allowed
that is not listed here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from fnmatch import fnmatchcase
from functools import total_ordering
from typing import Any, Final

from registry.domain.errors import InvalidError
from registry.domain.names import DEFAULT_NAMESPACE, ModelName, fold, shown

EVERYTHING: Final = "*"
READ: Final = "read"
MAX_PATTERNS: Final = 64
_GLOB_PART = re.compile(r"[A-Za-z0-9._*?-]{1,96}")
_MAX_STARS: Final = 8


class Permission(StrEnum):
    """What a route may require, as `subject:verb`."""

    MODEL_READ = "model:read"
    MODEL_CREATE = "model:create"
    MODEL_UPDATE = "model:update"
    VERSION_READ = "version:read"
    VERSION_PUBLISH = "version:publish"
    VERSION_TRASH = "version:trash"
    VERSION_RESTORE = "version:restore"
    METRIC_READ = "metric:read"
    METRIC_RECORD = "metric:record"
    ALIAS_READ = "alias:read"
    ALIAS_POINT = "alias:point"
    ALIAS_REMOVE = "alias:remove"
    TAG_WRITE = "tag:write"
    LINEAGE_READ = "lineage:read"
    PROMOTION_READ = "promotion:read"
    PROMOTION_REQUEST = "promotion:request"
    PROMOTION_ROLLBACK = "promotion:rollback"
    PROMOTION_FORCE = "promotion:force"
    PROMOTION_DECIDE = "promotion:decide"
    POLICY_READ = "policy:read"
    POLICY_SET = "policy:set"
    CONSUMER_READ = "consumer:read"
    CONSUMER_REPORT = "consumer:report"
    WEBHOOK_MANAGE = "webhook:manage"
    NAMESPACE_READ = "namespace:read"
    NAMESPACE_CREATE = "namespace:create"
    NAMESPACE_GRANT = "namespace:grant"
    TOKEN_MANAGE = "token:manage"  # noqa: S105 - the name of a permission
    USER_MANAGE = "user:manage"
    EVENT_READ = "event:read"
    STORAGE_READ = "storage:read"
    UPLOAD_WRITE = "upload:write"
    SEARCH_READ = "search:read"


@total_ordering
class Role(Enum):
    """What a user is in a namespace, from least to most. Not a string, so that `<` cannot compare spellings."""

    READER = "reader"
    WRITER = "writer"
    PROMOTER = "promoter"
    ADMIN = "admin"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Role):
            return NotImplemented
        order = list(Role)
        return order.index(self) < order.index(other)


EVERYONE: Final = frozenset({Permission.SEARCH_READ, Permission.TOKEN_MANAGE})
_ADDED: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.READER: frozenset(permission for permission in Permission if permission.endswith(f":{READ}"))
    | {Permission.CONSUMER_REPORT},
    Role.WRITER: frozenset({
        Permission.MODEL_CREATE,
        Permission.MODEL_UPDATE,
        Permission.VERSION_PUBLISH,
        Permission.VERSION_TRASH,
        Permission.VERSION_RESTORE,
        Permission.METRIC_RECORD,
        Permission.ALIAS_POINT,
        Permission.ALIAS_REMOVE,
        Permission.TAG_WRITE,
        Permission.UPLOAD_WRITE,
    }),
    Role.PROMOTER: frozenset({
        Permission.PROMOTION_REQUEST,
        Permission.PROMOTION_ROLLBACK,
        Permission.PROMOTION_DECIDE,
    }),
    Role.ADMIN: frozenset({
        Permission.PROMOTION_FORCE,
        Permission.POLICY_SET,
        Permission.WEBHOOK_MANAGE,
        Permission.NAMESPACE_GRANT,
    }),
}  # fmt: skip
ALLOWED: Final[Mapping[Role, frozenset[Permission]]] = {
    role: EVERYONE.union(*(_ADDED[lower] for lower in Role if lower <= role)) for role in Role
}
# Answered from many models at once, and therefore filtered model by model with `scope_allows`.
FILTERED: Final = frozenset({Permission.MODEL_READ, Permission.SEARCH_READ})


class InvalidScopeError(InvalidError):
    """A token's scope names an unknown permission or is not a glob over models."""

    code = "INVALID_SCOPE"
    remedy = (
        "Give 'actions' as a list of permissions (version:publish), subjects (version:*), 'read' or '*', "
        "and 'models' as a glob such as vision/*."
    )


@dataclass(frozen=True, slots=True)
class Scope:
    """What a token may do of what its user may: `actions` on the models that match the glob `models`."""

    actions: tuple[str, ...] = (EVERYTHING,)
    models: str = EVERYTHING


FULL_SCOPE: Final = Scope()


def allows(role: Role | None, permission: Permission, /, *, administrator: bool = False) -> bool:
    """Whether someone with `role` (or none) in the namespace, or a global administrator, has the permission."""
    if administrator:
        return True
    return permission in (EVERYONE if role is None else ALLOWED[role])


def scope_allows(scope: Scope, permission: Permission, /, *, model: ModelName | None) -> bool:
    """Whether a token may use the permission on `model`; None if the request is not about one model.

    A token for some models only may do nothing that is not about one of them, except ask for what is filtered by model.
    """
    if not _includes(scope.actions, permission):
        return False
    if model is None:
        return scope.models == EVERYTHING or permission in FILTERED
    return _matches(scope.models, model)


def scope_within(inner: Scope, outer: Scope, /) -> bool:
    """Whether `inner` permits nothing that `outer` does not: a token may create only such tokens."""
    if any(_includes(inner.actions, each) and not _includes(outer.actions, each) for each in Permission):
        return False
    if outer.models in (EVERYTHING, inner.models):
        return True
    literal = not set("*?") & set(inner.models)
    return literal and _matches(outer.models, ModelName(*inner.models.split("/")))


def parse_scope(document: Any, /) -> Scope:
    """Read `{"actions": [...], "models": "glob"}`, either of which may be left out. Raises InvalidScopeError."""
    if not isinstance(document, dict) or not document.keys() <= {"actions", "models"}:
        raise InvalidScopeError("A scope is an object with 'actions' and 'models'.")
    actions = document.get("actions", [EVERYTHING])
    if not isinstance(actions, list | tuple) or not 0 < len(actions) <= MAX_PATTERNS:
        raise InvalidScopeError(f"A scope's actions are a list of 1 to {MAX_PATTERNS} patterns.")
    for pattern in actions:
        if not isinstance(pattern, str) or not any(_covers(pattern, permission) for permission in Permission):
            raise InvalidScopeError(f"{shown(str(pattern))} is no permission.", pattern=str(pattern))
    return Scope(tuple(dict.fromkeys(actions)), _parse_glob(document.get("models", EVERYTHING)))


def format_scope(scope: Scope, /) -> dict[str, Any]:
    """Write a scope as the JSON that `parse_scope` reads."""
    return {"actions": list(scope.actions), "models": scope.models}


def _parse_glob(text: Any) -> str:
    if text == EVERYTHING:
        return EVERYTHING
    if not isinstance(text, str):
        raise InvalidScopeError("A scope's models are a glob.")
    namespace, slash, name = text.partition("/")
    if not slash:
        namespace, name = DEFAULT_NAMESPACE, text
    if not _GLOB_PART.fullmatch(namespace) or not _GLOB_PART.fullmatch(name) or text.count("*") > _MAX_STARS:
        raise InvalidScopeError(f"{shown(text)} is not a glob over namespace/name.", models=text)
    return f"{namespace}/{name}"


def _covers(pattern: str, permission: Permission) -> bool:
    subject, _, verb = permission.value.partition(":")
    return pattern in (EVERYTHING, permission.value, f"{subject}:*") or pattern == verb == READ


def _includes(actions: tuple[str, ...], permission: Permission) -> bool:
    return any(_covers(pattern, permission) for pattern in actions)


def _matches(glob: str, model: ModelName) -> bool:
    """Match part by part, so that `*` stops at the slash, and folded, as models are looked up."""
    if glob == EVERYTHING:
        return True
    namespace, _, name = glob.partition("/")
    return fnmatchcase(fold(model.namespace), fold(namespace)) and fnmatchcase(fold(model.name), fold(name))
