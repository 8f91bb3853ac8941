"""Lineage: edges are written with the version they belong to, and walked from any version, up or down."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, contains_eager

from registry.db import queries
from registry.db.tables import LineageEdge, Model, Version
from registry.domain.access import Permission
from registry.domain.errors import InvalidError
from registry.domain.lineage import Relation
from registry.domain.references import Parent
from registry.services import models, versions
from registry.services.actors import Actor


class DuplicateParentError(InvalidError):
    """The same parent was named twice with the same relation."""

    code = "DUPLICATE_PARENT"
    remedy = "Name each parent once."


class ParentIsItselfError(InvalidError):
    """A version was named as its own parent."""

    code = "PARENT_IS_ITSELF"
    remedy = "Name the version it was made from."


class VariantNeedsOriginalError(InvalidError):
    """A derived version must name the one version it was derived from, and nothing else."""

    code = "VARIANT_NEEDS_ORIGINAL"
    remedy = "Give exactly one parent, a version of this registry, such as --parent convert=NAME:7."


@dataclass(frozen=True, slots=True)
class ResolvedParent:
    """A parent that is there: exactly one of `version` and `uri` is set."""

    relation: Relation
    version: Version | None = None
    uri: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One edge met on a walk. Names of versions the actor may not read are None, and so is the URI behind such one."""

    id: int
    depth: int
    relation: str
    child: str | None
    parent: str | None
    uri: str | None


def resolve_parents(session: Session, actor: Actor, parents: Sequence[Parent]) -> list[ResolvedParent]:
    """The versions and URIs that parents mean, held until the transaction ends so that none goes to the trash.

    Call it after `models.lock` of the child's model: whoever trashes locks in that order. Raises DuplicateParentError,
    or what `versions.resolve` raises.
    """
    meant = [versions.resolve(session, actor, each.reference) if each.reference else None for each in parents]
    held = _held(session, {version.id for version in meant if version is not None})
    found = [
        ResolvedParent(each.relation, held[version.id] if version else None, each.uri)
        for each, version in zip(parents, meant, strict=True)
    ]
    _check_distinct(found)
    return found


def check_variant(variant: str | None, parents: Sequence[ResolvedParent]) -> None:
    """Check that a derived version names its original. Raises VariantNeedsOriginalError."""
    if variant is None or (len(parents) == 1 and parents[0].version is not None):
        return
    raise VariantNeedsOriginalError(
        f"The variant {variant} has {len(parents)} parents, not one version.", variant=variant, parents=len(parents)
    )


def insert(session: Session, child: Version, parents: Sequence[ResolvedParent]) -> None:
    """Write the edges of a version that is being published; its row must have been flushed.

    Raises VariantNeedsOriginalError, DuplicateParentError or ParentIsItselfError.
    """
    check_variant(child.variant, parents)
    _check_distinct(parents)
    for parent in parents:
        if parent.version is not None and parent.version.id == child.id:
            raise ParentIsItselfError(f"{versions.name_of(parent.version)} cannot be its own parent.")
        session.add(
            LineageEdge(
                child_id=child.id,
                relation=str(parent.relation),
                parent_id=parent.version.id if parent.version else None,
                parent_uri=parent.uri,
            )
        )


def walk(
    session: Session,
    actor: Actor,
    version: Version,
    *,
    down: bool,
    depth: int,
    after: tuple[int, int] | None,
    limit: int,
) -> list[Step]:
    """Edges by their distance from the version, each once, `limit + 1` at most."""
    edges = queries.lineage(session, version.id, down=down, depth=depth, after=after, limit=limit)
    ids = {found for each in edges for found in (each.child_id, each.parent_id) if found is not None}
    names = _readable_names(session, actor, ids)
    return [
        Step(
            id=each.id,
            depth=each.depth,
            relation=each.relation,
            child=names.get(each.child_id),
            parent=names.get(each.parent_id) if each.parent_id is not None else None,
            uri=each.uri if each.child_id in names else None,
        )
        for each in edges
    ]


def _held(session: Session, ids: set[int]) -> dict[int, Version]:
    if not ids:
        return {}
    locked = _named().where(Version.id.in_(sorted(ids))).order_by(Version.id)
    rows = session.scalars(locked.with_for_update(read=True, of=Version).execution_options(populate_existing=True))
    return {version.id: versions.live(version) for version in rows}


def _check_distinct(parents: Sequence[ResolvedParent]) -> None:
    seen: set[tuple[Relation, int | str | None]] = set()
    for parent in parents:
        key = (parent.relation, parent.version.id if parent.version else parent.uri)
        if key in seen:
            name = versions.name_of(parent.version) if parent.version else parent.uri
            raise DuplicateParentError(f"The parent {parent.relation}={name} was given twice.")
        seen.add(key)


def _readable_names(session: Session, actor: Actor, ids: set[int]) -> dict[int, str]:
    rows = session.scalars(_named().where(Version.id.in_(sorted(ids)))) if ids else ()
    return {
        version.id: versions.name_of(version)
        for version in rows
        if actor.may(Permission.VERSION_READ, models.full_name(version.model))
    }


def _named() -> Select[Version]:
    return (
        select(Version)
        .join(Version.model)
        .join(Model.namespace)
        .options(contains_eager(Version.model).contains_eager(Model.namespace))
    )
