"""One registry on each kind of database, for all tests that kill parts of it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from tests.faults.evidence import Evidence
from tests.faults.scene import MODEL, Scene
from tests.support.chaos import arena


@pytest.fixture(scope="session")
def scene_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Scene]]:
    """The one scene on each kind of database, made when first asked for."""
    with ExitStack() as stack:

        @cache
        def on(kind: str) -> Scene:
            made = stack.enter_context(arena(tmp_path_factory.mktemp(kind), kind))
            with made.live.client() as client:
                client.create_model(MODEL)
            return Scene(made, Evidence(made.database_url, made.store.config))

        yield on
