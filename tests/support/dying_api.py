"""The API in one process that ends itself between commit and reply, if a request asks it to.

`python -m tests.support.dying_api PORT`; the environment says what it stands on.
"""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from werkzeug.serving import make_server

from registry.app import create_app
from registry.config import Config
from registry.embedded import seaweed
from tests.support import ROOT
from tests.support.chaos import until
from tests.support.world import ADMIN_SECRET

DIE = "X-Die"
"""The header with which a request asks for it."""


def dying(app: Any) -> Callable[..., Iterable[bytes]]:
    """The application; by the time it has given its answer, it has committed."""

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer: Iterable[bytes] = app(environ, start_response)
        if environ.get(f"HTTP_{DIE.upper().replace('-', '_')}"):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return serve


@contextmanager
def running(database_url: str, folder: Path) -> Iterator[str]:
    """Such an API on a database, started anew whenever it has died; gives its URL."""
    port = seaweed.free_ports(1)[0]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "AWS_"))}
    environment |= {"PYTHONPATH": str(ROOT), "REGISTRY_DATABASE_URL": database_url}
    environment |= {"REGISTRY_ADMIN_TOKEN": ADMIN_SECRET, "REGISTRY_S3_ENDPOINT_URL": "http://127.0.0.1:9"}
    command = f"while true; do {sys.executable} -m tests.support.dying_api {port}; done"
    with (folder / "dying.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until(lambda: is_live(f"http://127.0.0.1:{port}"), "the API answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_live(url: str) -> bool:
    """Whether something answers there. It has no store, so it is never ready."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (urllib.error.URLError, OSError):
        return False


def main() -> None:
    app = create_app(Config.from_environment())
    make_server("127.0.0.1", int(sys.argv[1]), dying(app), threaded=True).serve_forever()


if __name__ == "__main__":
    main()
