"""Namespaces: who owns models, rights and stored bytes."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.db.tables import Namespace
from registry.domain.access import Permission, scope_allows
from registry.domain.audit import Action
from registry.domain.errors import ConflictError
from registry.domain.names import PART, SYSTEM_CHAIN, check_namespace, fold, shown
from registry.services import audit
from registry.services.actors import Actor, NamespaceNotFoundError, PermissionDeniedError


class NamespaceExistsError(ConflictError):
    """The name, or a look-alike of it, is taken."""

    code = "NAMESPACE_EXISTS"
    remedy = "Use the existing namespace, or choose a name that differs in more than case and punctuation."


def find(session: Session, actor: Actor, name: str) -> Namespace:
    """The namespace by its name in any spelling. Raises NamespaceNotFoundError."""
    if actor.role_in(name) is None or not PART.fullmatch(name):
        raise NamespaceNotFoundError(f"There is no namespace {shown(name)}.", namespace=name)
    namespace = session.scalar(select(Namespace).where(Namespace.folded == fold(name)))
    if namespace is None:
        raise NamespaceNotFoundError(f"There is no namespace {shown(name)}.", namespace=name)
    return namespace


def page_of_namespaces(session: Session, actor: Actor, *, after: str | None, limit: int) -> list[Namespace]:
    """Namespaces the actor has a role in, by folded name, `limit + 1` at most. Raises PermissionDeniedError."""
    if not scope_allows(actor.scope, Permission.NAMESPACE_READ, model=None):
        raise PermissionDeniedError(
            f"{actor.name} may not list namespaces with this token.", permission=str(Permission.NAMESPACE_READ)
        )
    query = select(Namespace).order_by(Namespace.folded).limit(limit + 1)
    if not actor.is_admin:
        query = query.where(Namespace.folded.in_(sorted(actor.roles)))
    if after is not None:
        query = query.where(Namespace.folded > after)
    return list(session.scalars(query))


def create(session: Session, actor: Actor, name: str, *, now: datetime, description: str = "") -> Namespace:
    """Create a namespace; administrators only. Raises NamespaceExistsError or PermissionDeniedError."""
    actor.check_administrator(Permission.NAMESPACE_CREATE)
    namespace = Namespace(name=check_namespace(name), folded=fold(name), description=description, created_at=now)
    try:
        with session.begin_nested():
            session.add(namespace)
    except IntegrityError:
        taken = session.scalars(select(Namespace).where(Namespace.folded == fold(name))).one()
        raise NamespaceExistsError(f"Namespace {name} is taken by {taken.name}.", existing=taken.name) from None
    audit.record(session, actor, Action.NAMESPACE_CREATE, namespace.name, chain=SYSTEM_CHAIN, now=now)
    return namespace


def ensure_for_push(session: Session, actor: Actor, name: str, *, now: datetime) -> Namespace:
    """The namespace; an administrator's first push into a new one creates it. Raises NamespaceNotFoundError."""
    existing = session.scalar(select(Namespace).where(Namespace.folded == fold(name)))
    if existing is not None and actor.role_in(name) is not None:
        return existing
    if existing is None and actor.is_admin:
        try:
            return create(session, actor, name, now=now)
        except NamespaceExistsError:  # another push created it between the two statements
            return find(session, actor, name)
    raise NamespaceNotFoundError(f"There is no namespace {shown(name)}.", namespace=name)
