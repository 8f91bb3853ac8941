"""MLflow as others run it: `mlflow server` with its defaults, from an environment of its own outside the project's."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData, Table, create_engine, insert, select

from benchmarks.stack import ROOT, Server, serving
from registry.embedded.seaweed import free_ports

NAME = "yolo11n"
HOME = ROOT / ".venv-peers"
_LOCK = ROOT / "requirements" / "peers.lock"
_STAMP = HOME / ".locked"


def environment() -> Path:
    """The folder of the peers' programs, installed by their lock if that has not been done or has changed."""
    wanted = _LOCK.read_text(encoding="utf-8")
    if not _STAMP.exists() or _STAMP.read_text(encoding="utf-8") != wanted:
        print(f"installing {_LOCK.name} into {HOME.name} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", HOME], check=True)
        command = [str(HOME / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        command += ["--no-input", "--require-hashes", "--only-binary", ":all:", "-r", str(_LOCK)]
        subprocess.run(command, check=True)
        _STAMP.write_text(wanted, encoding="utf-8")
    return HOME / "bin"


@contextmanager
def mlflow(backend: str, folder: Path, *, versions: int, held: int) -> Iterator[Server]:
    """A server whose model NAME has that many versions, `held` with the alias `production`."""
    programs, port = environment(), free_ports(1)[0]
    command = [str(programs / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", backend, "--default-artifact-root", str(folder / "artifacts")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
    environ |= {"PATH": f"{programs}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with serving(
        command, url=f"http://127.0.0.1:{port}", ready="/health", environ=environ, folder=folder
    ) as server:  # fmt: skip
        _post(server, "registered-models/create", {"name": NAME})
        _post(server, "model-versions/create", {"name": NAME, "source": "s3://somewhere/m"})
        _multiply(backend, versions)
        _post(server, "registered-models/alias", {"name": NAME, "alias": "production", "version": str(held)})
        yield server


def by_alias(server: Server) -> str:
    """The URL of what is measured."""
    return f"{server.url}/api/2.0/mlflow/registered-models/alias?name={NAME}&alias=production"


def _multiply(backend: str, versions: int) -> None:
    """Its API creates some eighty versions a second: the row of the first is copied instead."""
    engine = create_engine(backend)
    table = Table("model_versions", MetaData(), autoload_with=engine)
    with engine.begin() as connection:
        first = dict(connection.execute(select(table)).mappings().one())
        connection.execute(insert(table), [first | {"version": number} for number in range(2, versions + 1)])
    engine.dispose()


def _post(server: Server, path: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(  # noqa: S310 - an address made above
        f"{server.url}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        assert answer.status == 200
