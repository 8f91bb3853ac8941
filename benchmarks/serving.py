"""`registry serve` as a process of its own, started and stopped as a person would do it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import registry
from registry.embedded.child import die_with_parent
from registry.embedded.seaweed import free_ports, reachable

_ROOT = Path(__file__).parents[1]
_GREETING = "Registry:"
_PATIENCE_S = 60.0
_HIGHEST_S3_PORT = 55_535


class NotServingError(Exception):
    """The stack did not come up."""


class Serving:
    """A stack on one home and two free ports. It may be started and stopped any number of times.

    `environ` are settings of the stack; those of the caller's own environment do not reach it.
    """

    def __init__(
        self, folder: Path, *, host: str = "127.0.0.1", options: Sequence[str] = (), environ: Mapping[str, str] = {}
    ) -> None:
        """Nothing runs yet. The home, and what the stack says, are kept in `folder`."""
        self.home = folder / "home"
        self.host = host
        self.port, self.s3_port = _ports()
        self.scheme = "https" if "--tls-cert" in options else "http"
        self.token = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._folder = folder
        self._options = tuple(options)
        self._environ = foreign() | {"REGISTRY_HOME": str(self.home), **environ}
        self._starts = 0

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"{self.scheme}://{reachable(self.host)}:{self.port}"

    @property
    def out(self) -> str:
        """What the latest start printed."""
        return self._said("out").read_text()

    @property
    def err(self) -> str:
        """What the latest start said besides."""
        return self._said("err").read_text()

    @property
    def pid(self) -> int:
        """The process that was started; the rest of the stack descends from it."""
        assert self.process is not None
        return self.process.pid

    def launch(self) -> None:
        """Start it, without waiting for anything."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._starts += 1
        command = [sys.executable, "-m", "registry", "serve", "--host", self.host]
        command += ["--port", str(self.port), "--s3-port", str(self.s3_port), *self._options]
        with self._said("out").open("wb") as out, self._said("err").open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - as the stack does with its own children
            )

    def start(self) -> float:
        """Start it, wait until it says that it serves, and return the seconds that took. Raises NotServingError."""
        before = time.monotonic()
        self.launch()
        assert self.process is not None
        while _GREETING not in self.out or not self.out.endswith("\n"):
            if self.process.poll() is not None:
                raise NotServingError(f"registry serve ended with {self.process.returncode}: {self.err}")
            if time.monotonic() - before > _PATIENCE_S:
                self.stop()
                raise NotServingError(f"registry serve is not ready after {_PATIENCE_S:.0f} s: {self.err}")
            time.sleep(0.02)
        took = time.monotonic() - before
        kept = self.home / "admin-token"
        self.token = kept.read_text().strip() if kept.exists() else ""
        return took

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it, by default as Ctrl-C does, and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def is_running(self) -> bool:
        """Whether the process that was started still runs."""
        return self.process is not None and self.process.poll() is None

    def client(self, *, cache: Path | None = None) -> registry.Client:
        """A client, as the administrator, that keeps what it pulls in `cache`."""
        return registry.Client(self.url, self.token, cache=cache or self._folder / "cache")

    def command(self, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        """Run a command line of the client against it. `environ` are further variables."""
        return subprocess.run(
            [sys.executable, "-m", "registry", *arguments],
            cwd=_ROOT,
            env=self._environ | self.client_environ() | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def client_environ(self) -> dict[str, str]:
        """The settings with which a client of this machine reaches it; the token stays out of command lines."""
        return {
            "REGISTRY_URL": self.url,
            "REGISTRY_TOKEN": self.token,
            "REGISTRY_CACHE": str(self._folder / "cache"),
            "REGISTRY_CREDENTIALS": str(self._folder / "credentials.json"),
        }

    def _said(self, stream: str) -> Path:
        return self._folder / f"serve-{self._starts}.{stream}"


def foreign() -> dict[str, str]:
    """The caller's environment without any setting of a registry or a store."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "AWS_"))}


def _ports() -> tuple[int, int]:
    while True:
        port, s3_port = free_ports(2)
        if s3_port <= _HIGHEST_S3_PORT:
            return port, s3_port
