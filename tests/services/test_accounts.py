from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from sqlalchemy import func, select

from registry.config import InvalidSettingError
from registry.db.tables import Event, Namespace, Token, User
from registry.domain.access import FULL_SCOPE, InvalidScopeError, Scope, parse_scope
from registry.domain.names import InvalidLabelError, InvalidUserNameError, ReservedNameError
from registry.domain.tokens import check_token_format, token_digest, token_prefix
from registry.services import accounts, actors, chains
from registry.services.accounts import (
    LastAdministratorError,
    TokenNotFoundError,
    UserExistsError,
    UserNotFoundError,
)
from registry.services.actors import ExpiredTokenError, PermissionDeniedError, UnknownTokenError
from tests.support.world import ADMIN_SECRET, T0


def acts(session, subject=None):
    query = select(Event.action).where(Event.chain == "_system").order_by(Event.seq)
    return list(session.scalars(query.where(Event.subject == subject) if subject else query))


# Users


def test_an_administrator_creates_a_user_without_rights(session, admin):
    user = accounts.create_user(session, admin, "ana@example.org", now=T0)
    assert (user.name, user.is_admin, user.disabled_at, user.created_at) == ("ana@example.org", False, None, T0)
    assert acts(session, "ana@example.org") == ["user:create"]


@pytest.mark.parametrize("name", ["ana", "ana-b", "ana.-b"])
def test_a_taken_or_look_alike_name_is_refused(session, admin, name):
    accounts.create_user(session, admin, "ana", now=T0)
    accounts.create_user(session, admin, "ana_b", now=T0)
    with pytest.raises(UserExistsError) as refused:
        accounts.create_user(session, admin, name, now=T0)
    assert refused.value.details["existing"] in ("ana", "ana_b")
    assert session.scalar(select(func.count()).select_from(User)) == 3


@pytest.mark.parametrize(
    ("name", "error"),
    [("Ana", InvalidUserNameError), ("", InvalidUserNameError), ("a b", InvalidUserNameError)]
    + [(name, ReservedNameError) for name in ("system", "worker", "me", "anonymous")],
)
def test_a_bad_or_reserved_user_name_is_refused(session, admin, name, error):
    with pytest.raises(error):
        accounts.create_user(session, admin, name, now=T0)


def test_only_administrators_manage_users(session, make_actor):
    ana = make_actor("ana", "admin")
    with pytest.raises(PermissionDeniedError):
        accounts.create_user(session, ana, "bea", now=T0)
    with pytest.raises(PermissionDeniedError):
        accounts.update_user(session, ana, "admin", is_disabled=True, now=T0)
    with pytest.raises(PermissionDeniedError):
        accounts.page_of_users(session, ana, after=None, limit=10)


def test_an_administrators_narrow_token_does_not_manage_users(session, make_actor):
    root = make_actor("root", is_admin=True, scope=Scope(("read",)))
    with pytest.raises(PermissionDeniedError):
        accounts.create_user(session, root, "bea", now=T0)


def test_a_disabled_user_cannot_act_until_enabled_again(session, admin, people):
    secret = people.secret("ana", "writer")
    accounts.update_user(session, admin, "ANA", is_disabled=True, now=T0)
    with pytest.raises(UnknownTokenError):
        people.authenticated(secret)
    accounts.update_user(session, admin, "ana", is_disabled=False, now=T0)
    assert people.authenticated(secret).name == "ana"
    assert acts(session, "ana")[-2:] == ["user:disable", "user:enable"]


def test_to_say_again_what_is_so_changes_nothing_and_is_no_event(session, admin, make_actor):
    make_actor("ana")
    before = acts(session)
    user = accounts.update_user(session, admin, "ana", is_disabled=False, is_admin=False, now=T0)
    accounts.update_user(session, admin, "ana", now=T0)
    assert (user.disabled_at, user.is_admin) == (None, False)
    assert acts(session) == before


def test_the_administrator_flag_is_a_grant_in_the_audit_trail(session, admin, make_actor):
    make_actor("ana")
    accounts.update_user(session, admin, "ana", is_admin=True, now=T0)
    accounts.update_user(session, admin, "ana", is_admin=False, now=T0)
    granted, revoked = session.scalars(select(Event).where(Event.subject == "ana").order_by(Event.seq)).all()[-2:]
    assert (granted.action, revoked.action) == ("namespace:grant", "namespace:revoke")
    assert granted.detail == revoked.detail == {"user": "ana", "role": "administrator"}


@pytest.mark.parametrize("change", [{"is_disabled": True}, {"is_admin": False}])
def test_the_last_enabled_administrator_stays(session, admin, make_actor, change):
    make_actor("root", is_admin=True)
    accounts.update_user(session, admin, "root", is_disabled=True, now=T0)
    before = acts(session)
    with pytest.raises(LastAdministratorError):
        accounts.update_user(session, admin, "admin", now=T0, **change)
    assert acts(session) == before
    accounts.update_user(session, admin, "root", is_disabled=False, now=T0)
    accounts.update_user(session, admin, "admin", now=T0, **change)


def test_two_administrators_cannot_put_out_each_other(database, admin, people):
    root = people.actor("root", is_admin=True)
    both = Barrier(2)

    def disable(actor, other):
        both.wait()
        try:
            with database.transaction() as session:
                accounts.update_user(session, actor, other, is_disabled=True, now=T0)
        except LastAdministratorError:
            return "refused"
        return "done"

    for _ in range(5):
        with ThreadPoolExecutor(2) as pool:
            outcomes = [pool.submit(disable, admin, "root"), pool.submit(disable, root, "admin")]
            assert sorted(each.result() for each in outcomes) == ["done", "refused"]
        with database.transaction() as session:
            for name in ("admin", "root"):
                accounts.update_user(session, admin, name, is_disabled=False, now=T0)


@pytest.mark.parametrize("name", ["nobody", "", "a\0b", "x" * 300, "\ud800"])
def test_a_user_that_is_not_there_is_said_so(session, admin, name):
    with pytest.raises(UserNotFoundError):
        accounts.update_user(session, admin, name, is_disabled=True, now=T0)


def test_users_are_paged_by_name(session, admin):
    for name in ("cleo", "bea", "ana"):
        accounts.create_user(session, admin, name, now=T0)
    names = [user.name for user in accounts.page_of_users(session, admin, after=None, limit=2)]
    assert names == ["admin", "ana", "bea"]  # one more than the page, to know that it is not the last
    assert [user.name for user in accounts.page_of_users(session, admin, after="ana", limit=2)] == ["bea", "cleo"]


# Tokens


def test_a_token_is_stored_as_its_digest_and_prefix_only(session, make_actor):
    ana = make_actor("ana")
    row, secret = accounts.create_token(session, ana, "laptop", scope=FULL_SCOPE, now=T0)
    check_token_format(secret)
    assert (row.sha256, row.prefix) == (token_digest(secret), token_prefix(secret))
    stored = [
        str(value)
        for table in (Token, Event)
        for line in session.scalars(select(table))
        for value in vars(line).values()
    ]
    assert not any(secret in value for value in stored)
    assert actors.authenticate(session.connection(), secret).token_name == "laptop"


def test_a_token_carries_its_scope_and_expiry(session, make_actor):
    now = datetime.now(UTC)
    scope = parse_scope({"actions": ["read", "version:publish"], "models": "vision/yolo*"})
    row, secret = accounts.create_token(session, make_actor("ana"), "ci", scope=scope, now=now, expires_in_days=30)
    found = actors.authenticate(session.connection(), secret)
    assert found.scope == scope
    assert found.expires_at == row.expires_at == now + timedelta(days=30)
    event = session.scalars(select(Event).order_by(Event.seq.desc())).first()
    assert (event.action, event.subject) == ("token:create", "ana")
    assert event.detail == {
        "token": row.id,
        "name": "ci",
        "actions": ["read", "version:publish"],
        "models": "vision/yolo*",
    }


def test_an_expired_token_is_refused(session, make_actor):
    long_ago = datetime.now(UTC) - timedelta(days=2)
    _, secret = accounts.create_token(
        session, make_actor("ana"), "old", scope=FULL_SCOPE, now=long_ago, expires_in_days=1
    )
    with pytest.raises(ExpiredTokenError):
        actors.authenticate(session.connection(), secret)


@pytest.mark.parametrize(
    ("own", "asked", "allowed"),
    [
        (Scope(), Scope(("read",), "vision/*"), True),
        (Scope(("read", "token:manage")), Scope(("model:read",)), True),
        (Scope(("read", "token:manage")), Scope(("read", "token:*")), True),
        (Scope(("read", "token:manage")), Scope(("version:publish",)), False),
        (Scope(("read", "token:manage")), Scope(), False),
        (Scope(("read",)), Scope(("read",)), False),  # may not manage tokens at all
        (Scope(models="vision/*"), Scope(models="vision/*"), False),  # a token for some models only
    ],
)
def test_a_token_creates_none_that_may_do_more(session, make_actor, own, asked, allowed):
    ana = make_actor("ana", "admin", scope=own)
    if allowed:
        accounts.create_token(session, ana, "child", scope=asked, now=T0)
        return
    before = session.scalar(select(func.count()).select_from(Token))
    with pytest.raises(PermissionDeniedError):
        accounts.create_token(session, ana, "child", scope=asked, now=T0)
    assert session.scalar(select(func.count()).select_from(Token)) == before


@pytest.mark.parametrize("document", [{"actions": ["fly"]}, {"actions": []}, {"models": "a/b/c"}, []])
def test_a_scope_that_means_nothing_is_refused(document):
    with pytest.raises(InvalidScopeError):
        parse_scope(document)


@pytest.mark.parametrize(("name", "error"), [("", InvalidLabelError), ("bootstrap", ReservedNameError)])
def test_a_bad_or_reserved_token_name_is_refused(session, make_actor, name, error):
    with pytest.raises(error):
        accounts.create_token(session, make_actor("ana"), name, scope=FULL_SCOPE, now=T0)


def test_users_manage_their_own_tokens_and_administrators_anyones(session, admin, make_actor):
    ana, bea = make_actor("ana", "admin"), make_actor("bea")
    row, _ = accounts.create_token(session, admin, "for ana", user="Ana", scope=FULL_SCOPE, now=T0)
    assert row.user_id == ana.user_id
    assert [token.name for token in accounts.page_of_tokens(session, ana, after=None, limit=9)] == ["test", "for ana"]
    own = accounts.page_of_tokens(session, ana, user="ANA", after=None, limit=9)
    assert own == accounts.page_of_tokens(session, admin, user="ana", after=None, limit=9)
    with pytest.raises(PermissionDeniedError):
        accounts.create_token(session, bea, "mine", user="ana", scope=FULL_SCOPE, now=T0)
    with pytest.raises(PermissionDeniedError):
        accounts.page_of_tokens(session, bea, user="ana", after=None, limit=9)
    with pytest.raises(TokenNotFoundError):
        accounts.revoke_token(session, bea, row.id, now=T0)
    with pytest.raises(UserNotFoundError):
        accounts.create_token(session, admin, "mine", user="nobody", scope=FULL_SCOPE, now=T0)


def test_a_revoked_token_is_refused_at_once_and_stays_on_record(session, make_actor):
    ana = make_actor("ana")
    row, secret = accounts.create_token(session, ana, "laptop", scope=FULL_SCOPE, now=T0)
    accounts.revoke_token(session, ana, row.id, now=T0)
    session.flush()
    with pytest.raises(UnknownTokenError):
        actors.authenticate(session.connection(), secret)
    assert session.scalars(select(Token).where(Token.id == row.id)).one().revoked_at == T0
    assert row.id not in [token.id for token in accounts.page_of_tokens(session, ana, after=None, limit=9)]
    with pytest.raises(TokenNotFoundError):
        accounts.revoke_token(session, ana, row.id, now=T0)
    assert acts(session, "ana").count("token:revoke") == 1


def test_an_administrator_revokes_anyones_token_and_a_token_itself(session, admin, make_actor):
    ana = make_actor("ana")
    row, _ = accounts.create_token(session, ana, "laptop", scope=FULL_SCOPE, now=T0)
    accounts.revoke_token(session, admin, row.id, now=T0)
    accounts.revoke_token(session, ana, ana.token_id, now=T0)
    assert accounts.page_of_tokens(session, ana, after=None, limit=9) == []


@pytest.mark.parametrize("number", [0, 10**6, 2**63, 10**30])
def test_a_token_that_is_not_there_is_said_so(session, admin, number):
    with pytest.raises(TokenNotFoundError):
        accounts.revoke_token(session, admin, number, now=T0)


def test_a_narrow_token_revokes_nothing(session, make_actor):
    ana = make_actor("ana", scope=Scope(("read",)))
    with pytest.raises(PermissionDeniedError):
        accounts.revoke_token(session, ana, ana.token_id, now=T0)


def test_tokens_are_paged_in_the_order_they_were_made(session, make_actor):
    ana = make_actor("ana")
    made = [accounts.create_token(session, ana, f"t{number}", scope=FULL_SCOPE, now=T0)[0].id for number in range(4)]
    first = accounts.page_of_tokens(session, ana, after=ana.token_id, limit=2)
    assert [token.id for token in first] == made[:3]
    assert [token.id for token in accounts.page_of_tokens(session, ana, after=made[1], limit=2)] == made[2:]


# The first administrator


def counts(session):
    tables = (Namespace, User, Token, Event)
    return [session.scalar(select(func.count()).select_from(table)) for table in tables]


def test_the_operators_secret_is_a_token_of_the_first_administrator(database, admin):
    assert (admin.name, admin.is_admin, admin.token_name, admin.scope) == ("admin", True, "bootstrap", FULL_SCOPE)
    with database.transaction(read_only=True) as session:
        assert acts(session) == ["namespace:create", "user:create", "token:create"]
        assert {event.actor for event in session.scalars(select(Event))} == {"system"}
        token = session.scalars(select(Token)).one()
        assert token.prefix == ""  # a part of what a person chose would give it away
        assert token.sha256 == token_digest(ADMIN_SECRET)


def test_to_start_again_changes_nothing(session):
    before = counts(session)
    accounts.bootstrap(session, ADMIN_SECRET, now=T0)
    assert counts(session) == before == [1, 1, 1, 3]


def test_without_a_secret_there_is_the_default_namespace_and_nobody(database):
    with database.transaction() as session:
        accounts.bootstrap(session, "", now=T0)
        assert counts(session) == [1, 0, 0, 1]
        accounts.bootstrap(session, "", now=T0)
        assert counts(session) == [1, 0, 0, 1]


def test_another_secret_revokes_the_one_before_and_no_other_token(session, admin):
    other, secret = accounts.create_token(session, admin, "laptop", scope=FULL_SCOPE, now=T0)
    accounts.bootstrap(session, "another-secret-of-the-operator", now=T0)
    session.flush()
    with pytest.raises(UnknownTokenError):
        actors.authenticate(session.connection(), ADMIN_SECRET)
    assert actors.authenticate(session.connection(), "another-secret-of-the-operator").name == "admin"
    assert actors.authenticate(session.connection(), secret).token_id == other.id
    assert acts(session, "admin")[-2:] == ["token:create", "token:revoke"]


def test_an_earlier_secret_works_again_when_the_operator_goes_back_to_it(session, admin):
    accounts.bootstrap(session, "another-secret-of-the-operator", now=T0)
    accounts.bootstrap(session, ADMIN_SECRET, now=T0)
    session.flush()
    assert actors.authenticate(session.connection(), ADMIN_SECRET).name == "admin"
    with pytest.raises(UnknownTokenError):
        actors.authenticate(session.connection(), "another-secret-of-the-operator")


def test_to_start_again_does_not_undo_what_people_decided(session, admin, make_actor):
    make_actor("root", is_admin=True)
    accounts.update_user(session, admin, "admin", is_disabled=True, now=T0)
    accounts.bootstrap(session, ADMIN_SECRET, now=T0)
    session.flush()
    with pytest.raises(UnknownTokenError):
        actors.authenticate(session.connection(), ADMIN_SECRET)


def test_a_secret_that_is_short_or_somebodys_token_is_refused(session, make_actor):
    with pytest.raises(InvalidSettingError):
        accounts.bootstrap(session, "nineteen-characters", now=T0)
    _, secret = accounts.create_token(session, make_actor("ana"), "mine", scope=FULL_SCOPE, now=T0)
    with pytest.raises(InvalidSettingError):
        accounts.bootstrap(session, secret, now=T0)


@pytest.mark.parametrize("secret", [ADMIN_SECRET, "another-secret-of-the-operator"])
def test_several_processes_may_start_at_once(database, secret):
    for _ in range(3):
        start = Barrier(6)

        def run(start=start):
            start.wait()
            with database.transaction() as session:
                accounts.bootstrap(session, secret, now=T0)

        with ThreadPoolExecutor(6) as pool:
            for each in [pool.submit(run) for _ in range(6)]:
                each.result()
        with database.transaction(read_only=True) as session:
            assert counts(session) == [1, 1, 1, 3]
            rows = chains.page_of_events(session, "_system", after=0, limit=9)
            assert [row.seq for row in rows] == [1, 2, 3]
