"""Reads that recurse."""

from dataclasses import dataclass

from sqlalchemy import Integer, func, literal, select, tuple_
from sqlalchemy.orm import Session, aliased

from registry.db.tables import LineageEdge, Version


@dataclass(frozen=True, slots=True)
class Edge:
    """A lineage edge and its distance from where the walk began."""

    id: int
    depth: int
    relation: str
    child_id: int
    parent_id: int | None
    uri: str | None


def lineage(
    session: Session, start: int, *, down: bool, depth: int, after: tuple[int, int] | None, limit: int
) -> list[Edge]:
    """Edges above or below a version, each once at its shortest distance, by (depth, id); `limit + 1` at most.

    The union drops what was reached before at the same distance, so diamonds do not multiply; the bound on the
    distance ends the walk even if there were a cycle.
    """
    edge = aliased(LineageEdge)
    near, far = (edge.parent_id, edge.child_id) if down else (edge.child_id, edge.parent_id)
    begin = select(Version.id.label("id"), literal(0, Integer).label("depth")).where(Version.id == start)
    reached = begin.cte("reached", recursive=True)
    reached = reached.union(
        select(far, reached.c.depth + 1)
        .join(reached, near == reached.c.id)
        .where(far.is_not(None), reached.c.depth < depth - 1)
    )
    nearest = select(reached.c.id, func.min(reached.c.depth).label("depth")).group_by(reached.c.id).subquery("nearest")
    origin = LineageEdge.parent_id if down else LineageEdge.child_id
    distance = nearest.c.depth + 1
    query = select(
        LineageEdge.id, distance, LineageEdge.relation, LineageEdge.child_id, LineageEdge.parent_id,
        LineageEdge.parent_uri,
    ).join(nearest, origin == nearest.c.id)  # fmt: skip
    if after is not None:
        query = query.where(tuple_(distance, LineageEdge.id) > after)
    return [Edge(*row) for row in session.execute(query.order_by(distance, LineageEdge.id).limit(limit + 1))]
