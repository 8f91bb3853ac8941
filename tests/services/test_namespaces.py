from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import select

from registry.db.tables import Event, Grant, Namespace
from registry.domain.access import Role, Scope
from registry.domain.names import InvalidNameError, ReservedNameError
from registry.services import chains, grants, namespaces
from registry.services.accounts import UserNotFoundError
from registry.services.actors import NamespaceNotFoundError, PermissionDeniedError
from registry.services.grants import GrantNotFoundError
from registry.services.namespaces import NamespaceExistsError
from tests.support.world import T0


def names(rows):
    return [row.name for row in rows]


def held(session, admin, namespace):
    return [(user.name, role) for user, role in grants.page_of_grants(session, admin, namespace, after=None, limit=99)]


def acts(session, chain):
    return [event.action for event in chains.page_of_events(session, chain, after=0, limit=99)]


def test_an_administrator_creates_a_namespace(session, admin):
    row = namespaces.create(session, admin, "Vision", description="eyes", now=T0)
    assert (row.name, row.description, row.created_at) == ("Vision", "eyes", T0)
    assert session.scalars(select(Event).order_by(Event.seq.desc())).first().subject == "Vision"
    assert namespaces.find(session, admin, "vision") is row


@pytest.mark.parametrize("name", ["vision_lab", "VISION-lab", "vision.-lab"])
def test_a_taken_or_look_alike_name_is_refused(session, admin, name):
    namespaces.create(session, admin, "vision_lab", now=T0)
    with pytest.raises(NamespaceExistsError) as refused:
        namespaces.create(session, admin, name, now=T0)
    assert refused.value.details == {"existing": "vision_lab"}
    assert names(namespaces.page_of_namespaces(session, admin, after=None, limit=9)) == ["default", "vision_lab"]


@pytest.mark.parametrize(
    ("name", "error"),
    [("", InvalidNameError), ("a/b", InvalidNameError), ("_system", InvalidNameError), ("api", ReservedNameError)],
)
def test_a_bad_or_reserved_name_is_refused(session, admin, name, error):
    with pytest.raises(error):
        namespaces.create(session, admin, name, now=T0)


def test_only_administrators_create_namespaces(session, make_actor):
    with pytest.raises(PermissionDeniedError):
        namespaces.create(session, make_actor("ana", "admin"), "vision", now=T0)


def test_an_administrators_first_push_creates_the_namespace_and_nobody_elses_does(session, admin, make_actor):
    row = namespaces.ensure_for_push(session, admin, "vision", now=T0)
    assert namespaces.ensure_for_push(session, admin, "VISION", now=T0) is row
    with pytest.raises(NamespaceNotFoundError):
        namespaces.ensure_for_push(session, make_actor("ana", "writer"), "audio", now=T0)


def test_a_namespace_without_a_role_in_it_is_not_there(session, admin, make_actor):
    namespaces.create(session, admin, "vision", now=T0)
    ana = make_actor("ana", "writer", "audio")
    for name in ("vision", "nothing", "a\0b"):
        with pytest.raises(NamespaceNotFoundError):
            namespaces.find(session, ana, name)
        with pytest.raises(NamespaceNotFoundError):
            grants.put(session, ana, name, "ana", role=Role.ADMIN, now=T0)
    with pytest.raises(NamespaceNotFoundError):
        namespaces.find(session, admin, "a\0b")
    assert namespaces.find(session, ana, "AUDIO").name == "audio"


def test_a_list_holds_the_namespaces_with_a_role_and_for_an_administrator_all(session, admin, make_actor):
    for name in ("delta", "Beta", "alpha", "gamma"):
        namespaces.create(session, admin, name, now=T0)
    make_actor("ana", "reader", "gamma")
    ana = make_actor("ana", "admin", "Beta")
    assert names(namespaces.page_of_namespaces(session, ana, after=None, limit=9)) == ["Beta", "gamma"]
    assert names(namespaces.page_of_namespaces(session, make_actor("bea"), after=None, limit=9)) == []
    first = names(namespaces.page_of_namespaces(session, admin, after=None, limit=2))
    assert first == ["alpha", "Beta", "default"]
    assert names(namespaces.page_of_namespaces(session, admin, after="beta", limit=9)) == ["default", "delta", "gamma"]


@pytest.mark.parametrize("scope", [Scope(("version:publish",)), Scope(models="vision/*")])
def test_a_token_whose_scope_leaves_namespaces_out_does_not_list_them(session, make_actor, scope):
    with pytest.raises(PermissionDeniedError):
        namespaces.page_of_namespaces(session, make_actor("ana", "admin", scope=scope), after=None, limit=9)


def test_a_grant_gives_a_role_in_one_namespace(session, admin, make_actor, people):
    secret = people.secret("ana")
    namespaces.create(session, admin, "vision", now=T0)
    grants.put(session, admin, "VISION", "Ana", role=Role.WRITER, now=T0)
    assert people.authenticated(secret).roles == {"vision": Role.WRITER}
    assert held(session, admin, "vision") == [("ana", Role.WRITER)]
    event = chains.page_of_events(session, "vision", after=0, limit=9)[0]
    assert (event.action, event.subject, event.actor) == ("namespace:grant", "vision", "admin")
    assert event.detail == {"user": "ana", "role": "writer", "previous": None}


def test_another_role_replaces_the_one_before_and_the_same_one_is_no_event(session, admin, make_actor):
    make_actor("ana", "writer")
    grants.put(session, admin, "default", "ana", role=Role.WRITER, now=T0)
    assert acts(session, "default") == ["namespace:grant"]
    grants.put(session, admin, "default", "ana", role=Role.READER, now=T0)
    assert held(session, admin, "default") == [("ana", Role.READER)]
    assert chains.page_of_events(session, "default", after=1, limit=9)[0].detail["previous"] == "writer"


def test_a_role_that_was_taken_away_is_gone_at_once(session, admin, people):
    secret = people.secret("ana", "promoter")
    user, role = grants.revoke(session, admin, "default", "ANA", now=T0)
    assert (user.name, role) == ("ana", Role.PROMOTER)
    assert people.authenticated(secret).roles == {}
    assert acts(session, "default") == ["namespace:grant", "namespace:revoke"]
    with pytest.raises(GrantNotFoundError):
        grants.revoke(session, admin, "default", "ana", now=T0)


def test_a_namespaces_admin_grants_there_and_nowhere_else(session, admin, make_actor):
    namespaces.create(session, admin, "audio", now=T0)
    make_actor("bea")
    ana = make_actor("ana", "admin", "vision")
    grants.put(session, ana, "vision", "bea", role=Role.ADMIN, now=T0)
    grants.revoke(session, ana, "vision", "bea", now=T0)
    with pytest.raises(NamespaceNotFoundError):
        grants.put(session, ana, "audio", "bea", role=Role.READER, now=T0)


@pytest.mark.parametrize("role", [Role.READER, Role.WRITER, Role.PROMOTER])
def test_nobody_below_admin_grants_revokes_or_sees_grants(session, make_actor, role):
    make_actor("bea", "admin")
    ana = make_actor("ana", role)
    with pytest.raises(PermissionDeniedError):
        grants.put(session, ana, "default", "ana", role=Role.ADMIN, now=T0)
    with pytest.raises(PermissionDeniedError):
        grants.revoke(session, ana, "default", "bea", now=T0)
    with pytest.raises(PermissionDeniedError):
        grants.page_of_grants(session, ana, "default", after=None, limit=9)


def test_a_grant_to_nobody_is_refused(session, admin):
    for change in (
        lambda: grants.put(session, admin, "default", "nobody", role=Role.READER, now=T0),
        lambda: grants.revoke(session, admin, "default", "nobody", now=T0),
    ):
        with pytest.raises(UserNotFoundError):
            change()
    assert acts(session, "default") == []


def test_grants_are_paged_by_user(session, admin, make_actor):
    for name in ("cleo", "ana", "bea"):
        make_actor(name, "reader")
    first = grants.page_of_grants(session, admin, "default", after=None, limit=1)
    assert [user.name for user, _ in first] == ["ana", "bea"]
    rest = grants.page_of_grants(session, admin, "default", after="ana", limit=9)
    assert [user.name for user, _ in rest] == ["bea", "cleo"]


def test_grants_at_the_same_time_come_one_after_the_other(database, admin, people):
    people.secret("ana")
    start = Barrier(4)

    def put(role):
        start.wait()
        with database.transaction() as session:
            grants.put(session, admin, "default", "ana", role=role, now=T0)

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(put, role) for role in Role]:
            each.result()
    with database.transaction(read_only=True) as session:
        events = chains.page_of_events(session, "default", after=0, limit=9)
        assert [event.seq for event in events] == [1, 2, 3, 4]
        followed = [event.detail["previous"] for event in events[1:]] == [event.detail["role"] for event in events[:-1]]
        assert followed
        assert session.scalars(select(Grant)).one().role == events[-1].detail["role"]


def test_creating_a_namespace_twice_at_the_same_time_makes_one(database, admin):
    start = Barrier(4)

    def create():
        start.wait()
        try:
            with database.transaction() as session:
                namespaces.create(session, admin, "vision", now=T0)
        except NamespaceExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        made = [each.result() for each in [pool.submit(create) for _ in range(4)]]
    assert made.count(True) == 1
    with database.transaction(read_only=True) as session:
        assert len(session.scalars(select(Namespace).where(Namespace.folded == "vision")).all()) == 1
