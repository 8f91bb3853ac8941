"""A whole registry as processes: the API under its real server, on a database and a bucket of its own."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import registry
from registry.embedded import seaweed
from registry.storage.s3 import StoreConfig
from tests.support import ROOT

TOKEN = "a-secret-of-the-operator-of-this-test"


@dataclass
class Live:
    """A running registry. Its administrator's token is TOKEN."""

    folder: Path
    environment: dict[str, str]
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, token: str = TOKEN, *, cache: Path | None = None) -> registry.Client:
        """A client with a cache of its own, if one is given."""
        return registry.Client(self.url, token, cache=cache)

    def start(self) -> None:
        """Start the API and wait until it is ready."""
        command = [sys.executable, "-m", "registry", "api", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "api.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + 30
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the API did not start: {(self.folder / 'api.log').read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the API; every process of it."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def live_registry(folder: Path, store: StoreConfig, **settings: str) -> Iterator[Live]:
    """A registry with nothing in it. `settings` are further environment variables of the server."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "AWS_"))} | {
        "PYTHONPATH": str(ROOT),
        "REGISTRY_DATABASE_URL": f"sqlite:///{folder / 'registry.db'}",
        "REGISTRY_ADMIN_TOKEN": TOKEN,
        "REGISTRY_S3_BUCKET": store.bucket,
        "REGISTRY_S3_ENDPOINT_URL": store.endpoint_url or "",
        "AWS_REGION": store.region,
        "AWS_ACCESS_KEY_ID": store.access_key or "",
        "AWS_SECRET_ACCESS_KEY": store.secret_key or "",
        **settings,
    }
    subprocess.run([sys.executable, "-m", "registry", "db", "upgrade"], cwd=ROOT, env=environment, check=True)
    live = Live(folder, environment, seaweed.free_ports(1)[0])
    live.start()
    try:
        yield live
    finally:
        live.stop()
