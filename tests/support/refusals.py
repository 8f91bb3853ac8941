"""What a refusal must be: a stable code, a status, one sentence, a remedy, and everything as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select
from werkzeug.test import TestResponse

from registry.db.base import Base
from registry.db.session import Database
from tests.support.world import code


def refusal(response: TestResponse) -> tuple[int, str]:
    """Status and code of a refusal that says what is wrong in one sentence, what to do, and under which id it is."""
    found = code(response)
    problem: Any = response.json
    assert problem["detail"].endswith("."), problem
    assert ". " not in problem["detail"], problem
    assert "\n" not in problem["detail"], problem
    assert problem["remedy"].endswith("."), problem
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert ("Retry-After" in response.headers) == (response.status_code == 503)
    assert ("WWW-Authenticate" in response.headers) == (response.status_code == 401)
    return found


def everything(database: Database) -> dict[str, list[str]]:
    """Every row there is. When a token was last used is no change that anybody asked for."""
    with database.transaction(read_only=True) as session:
        return {
            table.name: sorted(str([value for key, value in row.items() if key != "last_used_at"]) for row in rows)
            for table in Base.metadata.sorted_tables
            for rows in [session.execute(select(table)).mappings().all()]
        }


@contextmanager
def unchanged(database: Database, *, but: tuple[str, ...] = ()) -> Iterator[None]:
    """Nothing is added, changed or lost meanwhile, except in the tables named."""
    before = everything(database)
    yield
    after = everything(database)
    assert [name for name in before if name not in but and before[name] != after[name]] == []
