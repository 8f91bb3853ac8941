"""What tests of the server act in: an empty registry, people in it, and a client of its API."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy
from flask.testing import FlaskClient
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from registry.db.session import Database
from registry.db.upgrade import upgrade
from registry.domain.access import FULL_SCOPE, Role, Scope
from registry.services import accounts, actors, grants, namespaces
from registry.services.actors import SYSTEM, Actor

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ADMIN_SECRET = "an-operator-chose-this-secret"
PREFIX = "/api/v1"


@contextmanager
def migrated(url: str) -> Iterator[Database]:
    """A database at the newest schema."""
    database = Database(url)
    try:
        upgrade(database)
        yield database
    finally:
        database.dispose()


def sqlite_copy(template: Path, folder: Path) -> str:
    """The URL of a fresh copy of a migrated SQLite file that nobody has open."""
    shutil.copyfile(template, folder / "registry.db")
    return f"sqlite:///{folder / 'registry.db'}"


def emptied(database: Database) -> Database:
    """The same PostgreSQL database without any row, ours or the queue's. Faster than making a new one."""
    with database.engine.begin() as connection:
        kept = {"alembic_version", "dbos_migrations", "workflow_events_history"}
        inspector = sqlalchemy.inspect(connection)
        names = [f'"{name}"' for name in inspector.get_table_names() if name not in kept]
        names += [f'dbos."{name}"' for name in inspector.get_table_names(schema="dbos") if name not in kept]
        filled = [
            name for name in names if connection.execute(sqlalchemy.text(f"SELECT 1 FROM {name} LIMIT 1")).first()
        ]
        if filled:
            connection.execute(sqlalchemy.text(f"TRUNCATE {', '.join(filled)} CASCADE"))
    return database


@dataclass(frozen=True, slots=True)
class People:
    """Makes users with a role and a token, in the test's open transaction if it has one."""

    database: Database
    session: Session | None = None

    def secret(
        self,
        name: str,
        role: Role | str | None = None,
        namespace: str = "default",
        *,
        is_admin: bool = False,
        scope: Scope = FULL_SCOPE,
    ) -> str:
        """The secret of a new token of this user, who is created if new and given the role if one is named."""
        with self._transaction() as session:
            try:
                user = accounts.find_user(session, name)
            except accounts.UserNotFoundError:
                user = accounts.create_user(session, SYSTEM, name, now=T0, is_admin=is_admin)
            if role is not None:
                namespaces.ensure_for_push(session, SYSTEM, namespace, now=T0)
                grants.put(session, SYSTEM, namespace, name, role=Role(role), now=T0)
            owner = Actor(user_id=user.id, name=user.name, is_admin=user.is_admin)
            return accounts.create_token(session, owner, "test", scope=scope, now=T0)[1]

    def actor(self, name: str, role: Role | str | None = None, namespace: str = "default", **more: Any) -> Actor:
        """The same user as an actor."""
        return self.authenticated(self.secret(name, role, namespace, **more))

    def authenticated(self, secret: str) -> Actor:
        """Who a secret stands for."""
        with self._transaction() as session:
            session.flush()
            return actors.authenticate(session.connection(), secret)

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        if self.session is not None:
            yield self.session
            return
        with self.database.transaction() as session:
            yield session


class Http:
    """A client of the API; sends the administrator's token unless told another, or None for no token."""

    def __init__(self, client: Callable[[], FlaskClient], token: str) -> None:
        self._client, self.token = client, token

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.request("GET", path, **more)

    def head(self, path: str, **more: Any) -> TestResponse:
        return self.request("HEAD", path, **more)

    def post(self, path: str, **more: Any) -> TestResponse:
        return self.request("POST", path, **more)

    def put(self, path: str, **more: Any) -> TestResponse:
        return self.request("PUT", path, **more)

    def patch(self, path: str, **more: Any) -> TestResponse:
        return self.request("PATCH", path, **more)

    def delete(self, path: str, **more: Any) -> TestResponse:
        return self.request("DELETE", path, **more)

    def request(
        self,
        method: str,
        path: str,
        *,
        token: str | None = "",
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> TestResponse:
        """Send to `path`, which is below `/api/v1` unless it names a prefix of its own. Safe to call from threads."""
        url = path if path.startswith((PREFIX, "/healthz", "/readyz", "/metrics")) else PREFIX + path
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.token}"
        with closing(self._client().open(url, method=method, headers=sent, **more)) as response:
            response.get_data()
            return response

    def items(self, path: str, *, limit: int = 50, **more: Any) -> list[Any]:
        """Every item of a list, page after page."""
        found: list[Any] = []
        joint = "&" if "?" in path else "?"
        cursor = ""
        while True:
            answer = self.get(f"{path}{joint}limit={limit}{cursor}", **more)
            assert answer.status_code == 200, answer.text
            page: Any = answer.json
            assert len(page["items"]) <= limit
            found += page["items"]
            if page["next"] is None:
                assert "Link" not in answer.headers
                return found
            assert 'rel="next"' in answer.headers["Link"]
            cursor = f"&cursor={page['next']}"


def code(response: TestResponse) -> tuple[int, str]:
    """Status and code of a refusal."""
    problem: Any = response.json
    assert response.mimetype == "application/problem+json", response.text
    assert problem["detail"]
    assert problem["status"] == response.status_code
    return response.status_code, problem["code"]
