import threading
from itertools import pairwise

import pytest
from sqlalchemy import select

from registry.db.tables import LineageEdge, Model
from registry.domain.access import Permission
from registry.domain.lineage import Relation
from registry.domain.names import ModelName
from registry.domain.references import parse_parent, parse_reference
from registry.services import lineage, models, versions
from registry.services.actors import ModelNotFoundError
from registry.services.lineage import (
    DuplicateParentError,
    ParentIsItselfError,
    ResolvedParent,
    VariantNeedsOriginalError,
)
from tests.support.factories import make_model, make_version, make_versions
from tests.support.world import T0


def add_parents(session, actor, child, parents):
    """What publishing does with the parents it is told."""
    lineage.insert(session, child, lineage.resolve_parents(session, actor, parents))


@pytest.fixture
def model(session):
    return make_model(session)


def link(session, child, *parents, relation=Relation.FINETUNE):
    lineage.insert(session, child, [ResolvedParent(relation, parent) for parent in parents])
    session.flush()


def walk(session, actor, version, *, down=False, depth=20, after=None, limit=1_000):
    return lineage.walk(session, actor, version, down=down, depth=depth, after=after, limit=limit)


def met(steps):
    return [(step.depth, step.child, step.parent) for step in steps]


def test_parents_are_versions_here_and_uris_elsewhere(session, admin, model):
    make_version(session, model)
    child = make_version(session, model)
    parents = [parse_parent(text) for text in ("m:1", "distill=hf://org/base")]
    add_parents(session, admin, child, parents)
    session.flush()
    edges = [(edge.relation, parent.number if parent else None, edge.parent_uri)
             for edge, parent in versions.parents_of(session, [child.id])]  # fmt: skip
    assert edges == [("finetune", 1, None), ("distill", None, "hf://org/base")]


def test_a_parent_is_found_by_any_reference(session, admin, model):
    first = make_version(session, model)
    for text in ("m", "m:1", f"m@sha256:{first.digest}"):
        [found] = lineage.resolve_parents(session, admin, [parse_parent(text)])
        assert found.version is not None
        assert versions.name_of(found.version) == "default/m:1"


def test_a_parent_that_is_not_there_or_in_the_trash_is_refused(session, admin, model):
    make_version(session, model, state="trashed")
    for text, error in (
        ("m:1", versions.VersionTrashedError),
        ("m:2", versions.VersionNotFoundError),
        ("n:1", ModelNotFoundError),
    ):
        with pytest.raises(error):
            lineage.resolve_parents(session, admin, [parse_parent(text)])


def test_a_parent_that_the_actor_may_not_read_is_not_there(session, make_actor):
    make_version(session, make_model(session, "secret/m"))
    with pytest.raises(ModelNotFoundError):
        lineage.resolve_parents(session, make_actor("ana", "writer"), [parse_parent("secret/m:1")])


@pytest.mark.parametrize("texts", [("m:1", "m:1"), ("m:1", "m"), ("hf://a/b", "hf://a/b")])
def test_the_same_parent_twice_is_refused(session, admin, model, texts):
    make_version(session, model)
    with pytest.raises(DuplicateParentError):
        lineage.resolve_parents(session, admin, [parse_parent(text) for text in texts])


def test_the_same_parent_with_two_relations_is_two_edges(session, admin, model):
    make_version(session, model)
    found = lineage.resolve_parents(session, admin, [parse_parent("m:1"), parse_parent("prune=m:1")])
    assert [parent.relation for parent in found] == ["finetune", "prune"]


def test_a_version_is_not_its_own_parent(session, admin, model):
    version = make_version(session, model)
    with pytest.raises(ParentIsItselfError):
        add_parents(session, admin, version, [parse_parent("m:1")])


@pytest.mark.parametrize("texts", [(), ("hf://a/b",), ("convert=m:1", "hf://a/b"), ("convert=m:1", "convert=m:2")])
def test_a_variant_has_one_parent_its_original(session, admin, model, texts):
    make_versions(session, model, 2)
    variant = make_version(session, model, variant="onnx-int8")
    with pytest.raises(VariantNeedsOriginalError):
        add_parents(session, admin, variant, [parse_parent(text) for text in texts])
    assert session.scalar(select(LineageEdge)) is None
    add_parents(session, admin, variant, [parse_parent("convert=m:1")])


def test_a_parent_cannot_be_trashed_while_its_child_is_there(session, admin, model):
    parent, child = make_versions(session, model, 2)
    link(session, child, parent)
    with pytest.raises(versions.VersionInUseError) as refused:
        versions.trash(session, admin, parent, now=T0)
    assert refused.value.details["reasons"] == ["parent of default/m:2"]


def test_a_parent_cannot_be_trashed_while_its_child_is_being_published(database, admin):
    with database.transaction() as session:
        make_version(session, make_model(session, "default/base"))
        make_model(session)
    said = []

    def trash():
        with database.transaction() as session:
            version = versions.resolve(session, admin, parse_reference("base:1"))
            try:
                versions.trash(session, admin, version, now=T0)
            except versions.VersionInUseError as error:
                said.append(error.code)

    thread = threading.Thread(target=trash)
    with database.transaction() as session:
        model = session.scalars(select(Model).where(Model.name == "m")).one()
        found = lineage.resolve_parents(session, admin, [parse_parent("base:1")])
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()  # it waits for this transaction
        model = models.find(session, admin, ModelName("default", "m"), Permission.MODEL_READ)
        lineage.insert(session, make_version(session, model), found)
    thread.join()
    assert said == ["VERSION_IN_USE"]


def test_a_walk_goes_up_and_down_the_nearest_edges_first(session, admin, model):
    one, two, three, four = make_versions(session, model, 4)
    link(session, two, one)
    link(session, three, two)
    link(session, four, two)
    assert met(walk(session, admin, four)) == [
        (1, "default/m:4", "default/m:2"),
        (2, "default/m:2", "default/m:1"),
    ]
    assert met(walk(session, admin, one, down=True)) == [
        (1, "default/m:2", "default/m:1"),
        (2, "default/m:3", "default/m:2"),
        (2, "default/m:4", "default/m:2"),
    ]
    assert walk(session, admin, one) == []
    assert walk(session, admin, four, down=True) == []


def test_a_walk_ends_at_the_depth_asked_for(session, admin, model):
    line = make_versions(session, model, 5)
    for parent, child in pairwise(line):
        link(session, child, parent)
    assert [step.depth for step in walk(session, admin, line[-1], depth=3)] == [1, 2, 3]
    assert [step.depth for step in walk(session, admin, line[0], down=True, depth=1)] == [1]


def test_each_edge_of_a_lattice_is_met_once_at_its_shortest_distance(session, admin, model):
    rows = [make_versions(session, model, 3) for _ in range(12)]
    for upper, lower in pairwise(rows):
        for child in lower:
            link(session, child, *upper)
    link(session, rows[-1][0], rows[0][0], relation=Relation.MERGE)
    steps = walk(session, admin, rows[-1][0])
    assert len(steps) == len({step.id for step in steps}) == 3 + 10 * 9 + 1
    assert [step.depth for step in steps] == sorted(step.depth for step in steps)
    assert (1, "default/m:34", "default/m:1") in met(steps)


def test_a_walk_ends_even_if_there_were_a_cycle(session, admin, model):
    one, two, three = make_versions(session, model, 3)
    for child, parent in ((one, three), (two, one), (three, two)):
        link(session, child, parent)
    assert [step.depth for step in walk(session, admin, one)] == [1, 2, 3]
    assert [step.depth for step in walk(session, admin, one, down=True)] == [1, 2, 3]


def test_a_walk_comes_in_pages(session, admin, model):
    parent, *children = make_versions(session, model, 6)
    for child in children:
        link(session, child, parent)
    link(session, make_version(session, model), children[0])
    seen, after = [], None
    while True:
        steps = walk(session, admin, parent, down=True, after=after, limit=2)
        seen += steps[:2]
        if len(steps) <= 2:
            break
        after = (steps[1].depth, steps[1].id)
    assert met(seen) == met(walk(session, admin, parent, down=True))
    assert len(seen) == 6


def test_names_the_actor_may_not_read_are_hidden_and_so_is_the_uri_behind_them(session, model, make_actor):
    base, secret = make_version(session, model), make_version(session, make_model(session, "secret/m"))
    child = make_version(session, model)
    link(session, secret, base)
    lineage.insert(session, secret, [ResolvedParent(Relation.DISTILL, uri="hf://private/teacher")])
    link(session, child, secret)
    reader = make_actor("ana", "reader")
    steps = walk(session, reader, child)
    assert met(steps) == [(1, "default/m:2", None), (2, None, "default/m:1"), (2, None, None)]
    assert [step.uri for step in steps] == [None, None, None]
    assert met(walk(session, reader, base, down=True)) == [(1, None, "default/m:1"), (2, "default/m:2", None)]
