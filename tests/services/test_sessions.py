from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from registry.db.tables import WebSession
from registry.services import accounts, sessions
from registry.services.actors import ExpiredTokenError, UnknownTokenError
from registry.services.sessions import LIFETIME, NotSignedInError
from tests.support.world import ADMIN_SECRET, T0


def test_a_cookie_stands_for_the_actor_of_the_token_it_was_signed_in_with(session, admin):
    begun = sessions.sign_in(session, ADMIN_SECRET, now=T0)
    assert sessions.find(session.connection(), begun.secret, now=T0) == begun.actor
    assert begun.actor.name == "admin"


def test_only_the_digest_of_a_cookie_is_stored(session):
    begun = sessions.sign_in(session, ADMIN_SECRET, now=T0)
    row = session.scalars(select(WebSession)).one()
    assert len(begun.secret) >= 43
    assert begun.secret not in (row.sha256, ADMIN_SECRET)
    assert len(row.sha256) == 64


def test_an_unknown_token_signs_nobody_in(session):
    with pytest.raises(UnknownTokenError):
        sessions.sign_in(session, "wr_nobody", now=T0)
    assert session.scalar(select(WebSession)) is None


def test_a_session_ends_after_twelve_hours_however_much_it_is_used(session):
    begun = sessions.sign_in(session, ADMIN_SECRET, now=T0)
    assert begun.expires_at == T0 + timedelta(hours=12)
    just_before = T0 + LIFETIME - timedelta(seconds=1)
    sessions.find(session.connection(), begun.secret, now=just_before)
    with pytest.raises(NotSignedInError):
        sessions.find(session.connection(), begun.secret, now=T0 + LIFETIME)


def test_a_session_does_not_outlive_its_token(session, admin, make_actor):
    ana = make_actor("ana")
    now = datetime.now(UTC)
    token, secret = accounts.create_token(session, ana, "short", scope=ana.scope, now=now, expires_in_days=1)
    begun = sessions.sign_in(session, secret, now=now + timedelta(hours=20))
    assert begun.expires_at == token.expires_at
    token.expires_at = now - timedelta(seconds=1)
    session.flush()
    with pytest.raises(ExpiredTokenError):
        sessions.find(session.connection(), begun.secret, now=now + timedelta(hours=20))


def test_a_session_ends_when_its_token_is_revoked_or_its_user_disabled(session, admin, make_actor):
    ana = make_actor("ana")
    token, secret = accounts.create_token(session, ana, "laptop", scope=ana.scope, now=T0)
    begun = sessions.sign_in(session, secret, now=T0)
    accounts.update_user(session, admin, "ana", is_disabled=True, now=T0)
    session.flush()
    with pytest.raises(UnknownTokenError):
        sessions.find(session.connection(), begun.secret, now=T0)
    accounts.update_user(session, admin, "ana", is_disabled=False, now=T0)
    session.flush()
    sessions.find(session.connection(), begun.secret, now=T0)
    accounts.revoke_token(session, ana, token.id, now=T0)
    session.flush()
    with pytest.raises(UnknownTokenError):
        sessions.find(session.connection(), begun.secret, now=T0)


def test_signing_out_ends_one_session_and_no_other(session):
    first, second = (sessions.sign_in(session, ADMIN_SECRET, now=T0) for _ in range(2))
    sessions.sign_out(session, first.secret)
    sessions.sign_out(session, "never began")
    with pytest.raises(NotSignedInError):
        sessions.find(session.connection(), first.secret, now=T0)
    sessions.find(session.connection(), second.secret, now=T0)


def test_sessions_that_are_over_are_forgotten_when_the_next_begins(session):
    sessions.sign_in(session, ADMIN_SECRET, now=T0)
    sessions.sign_in(session, ADMIN_SECRET, now=T0 + LIFETIME)
    assert len(session.scalars(select(WebSession)).all()) == 1
