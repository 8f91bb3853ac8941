"""Grants: which user has which role in a namespace."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import Grant, Namespace, User
from registry.domain.access import Permission, Role
from registry.domain.audit import Action
from registry.domain.errors import NotFoundError
from registry.services import accounts, audit, namespaces
from registry.services.actors import Actor


class GrantNotFoundError(NotFoundError):
    """The user has no role in the namespace."""

    code = "GRANT_NOT_FOUND"
    remedy = "Nothing needs to be done."


def put(session: Session, actor: Actor, namespace: str, user: str, *, role: Role, now: datetime) -> User:
    """Give the user this role, in place of the one before. To repeat it changes nothing.

    Raises NamespaceNotFoundError, PermissionDeniedError or UserNotFoundError.
    """
    row, owner = _held(session, actor, namespace), accounts.find_user(session, user)
    grant = session.get(Grant, (row.id, owner.id))
    if grant is not None and grant.role == role.value:
        return owner
    facts = {"user": owner.name, "role": role.value, "previous": grant.role if grant else None}
    session.merge(Grant(namespace_id=row.id, user_id=owner.id, role=role.value))
    audit.record(session, actor, Action.NAMESPACE_GRANT, row.name, facts, chain=row.name, now=now)
    return owner


def revoke(session: Session, actor: Actor, namespace: str, user: str, *, now: datetime) -> tuple[User, Role]:
    """Take the user's role away; gives what it was.

    Raises NamespaceNotFoundError, PermissionDeniedError, UserNotFoundError or GrantNotFoundError.
    """
    row, owner = _held(session, actor, namespace), accounts.find_user(session, user)
    grant = session.get(Grant, (row.id, owner.id))
    if grant is None:
        raise GrantNotFoundError(f"{owner.name} has no role in {row.name}.", user=owner.name, namespace=row.name)
    session.delete(grant)
    facts = {"user": owner.name, "role": grant.role}
    audit.record(session, actor, Action.NAMESPACE_REVOKE, row.name, facts, chain=row.name, now=now)
    return owner, Role(grant.role)


def page_of_grants(
    session: Session, actor: Actor, namespace: str, *, after: str | None, limit: int
) -> list[tuple[User, Role]]:
    """Who has which role, by folded user name, `limit + 1` at most. Raises like `put`."""
    actor.check_namespace(Permission.NAMESPACE_GRANT, namespace)
    row = namespaces.find(session, actor, namespace)
    query = select(User, Grant.role).join(Grant, Grant.user_id == User.id).where(Grant.namespace_id == row.id)
    if after is not None:
        query = query.where(User.folded > after)
    found = session.execute(query.order_by(User.folded).limit(limit + 1))
    return [(user, Role(role)) for user, role in found]


def _held(session: Session, actor: Actor, name: str) -> Namespace:
    """The namespace, whose grants change one after the other."""
    actor.check_namespace(Permission.NAMESPACE_GRANT, name)
    found = namespaces.find(session, actor, name)
    # Not against inserts that refer to it: those of a push go on.
    return session.scalars(select(Namespace).where(Namespace.id == found.id).with_for_update(key_share=True)).one()
