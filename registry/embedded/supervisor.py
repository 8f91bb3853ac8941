"""`registry serve`: starts the store, brings the database up to date, starts API and worker, and keeps them running.

Everything here happens in the main thread: signals arrive there, and a child dies with the thread that started it.
"""

import http.client
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from registry.domain.errors import LocalError
from registry.embedded import seaweed
from registry.embedded.child import Child
from registry.embedded.environment import bracketed, compose, public_host
from registry.embedded.home import Home
from registry.storage.s3 import Store, StoreConfig

_READY_S = 15.0
_LOOK_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_STEADY_S = 60.0


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `registry serve` was asked for.

    `upgrade` brings the database to head; it is called with the environment that the children get, before they start.
    `program` is how this command line starts itself for the API and the worker.
    """

    home: Path
    upgrade: Callable[[Mapping[str, str]], None]
    environ: Mapping[str, str]
    host: str = "127.0.0.1"
    port: int = 8080
    s3_port: int = 8333
    tls_cert: Path | None = None
    tls_key: Path | None = None
    program: tuple[str, ...] = (sys.executable, "-m", "registry")

    @property
    def url(self) -> str:
        """Where people reach the API."""
        return f"{'https' if self.tls_cert else 'http'}://{bracketed(public_host(self.host))}:{self.port}"


@dataclass(slots=True)
class _Kept:
    """A child that is started again when it ends, with a pause that grows while it keeps ending."""

    start: Callable[[], Child]
    stop: Callable[[Child], None]
    child: Child = field(init=False)
    began: float = field(init=False)
    pause: float = _FIRST_PAUSE_S
    due: float | None = None

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.child, self.began, self.due = self.start(), time.monotonic(), None

    def look(self) -> None:
        """Start it again if it ended and its pause is over."""
        now = time.monotonic()
        if self.due is None and self.child.exit_code() is not None:
            self._wait(f"{self.child.name} ended with {self.child.exit_code()}", now)
        elif self.due is not None and now >= self.due:
            try:
                self._begin()
            except LocalError as error:
                self._wait(f"{self.child.name} does not start: {error}", now)

    def _wait(self, why: str, now: float) -> None:
        steady = now - self.began > _STEADY_S and self.due is None
        self.pause = _FIRST_PAUSE_S if steady else min(2 * self.pause, _LONGEST_PAUSE_S)
        self.due = now + self.pause
        _say(f"{why}; starting it again in {self.pause:.1f} s.")


class _Stopping(BaseException):
    """SIGINT or SIGTERM arrived. Not an Exception: nothing on the way may take it for an error."""


def run(options: ServeOptions) -> int:
    """Serve until SIGINT or SIGTERM, then stop everything in order and return 0.

    Raises HomeInUseError, HomeUnusableError, PortInUseError or StartFailedError before anything is served.
    """
    home = Home.open(options.home)
    with _signals() as until_asked, home.locked() as lock:
        running: list[_Kept] = []
        try:
            _start(options, home, lock, running)
            until_asked(running)
        except _Stopping:
            _say("Stopping.")
        finally:
            # API, worker, store: each ends before what it needs. A second Ctrl-C changes nothing.
            for kept in reversed(running):
                kept.stop(kept.child)
    return 0


def _start(options: ServeOptions, home: Home, lock: int, running: list[_Kept]) -> None:
    seaweed.require_free(options.host, options.port)
    listen = seaweed.Listen(options.host, options.s3_port, options.tls_cert, options.tls_key)
    stack = compose(home, listen, options.environ)
    if stack.embedded_store:
        store = partial(seaweed.start, home, listen, environment=stack.environment, keep=(lock,))
        running.append(_Kept(store, seaweed.stop))
    options.upgrade(stack.environment)  # Meanwhile the store comes up: it spends seconds waiting for itself.
    if stack.embedded_store:
        seaweed.ready(home, running[0].child, listen)
        _store(stack.environment).ensure_bucket()
    for name, arguments in (("worker", []), ("api", _api_arguments(options))):
        command = [*options.program, name, *arguments]
        start = partial(Child, name, command, environment=stack.environment, log=home.logs / f"{name}.log")
        running.append(_Kept(start, Child.stop))
    _wait_until_ready(options, running)
    _greet(options, home, stack.environment)


def _api_arguments(options: ServeOptions) -> list[str]:
    arguments = ["--host", options.host, "--port", str(options.port)]
    if options.tls_cert:
        arguments += ["--tls-cert", str(options.tls_cert), "--tls-key", str(options.tls_key)]
    return arguments


def _store(environment: Mapping[str, str]) -> Store:
    return Store(
        StoreConfig(
            bucket=environment["REGISTRY_S3_BUCKET"],
            endpoint_url=environment["REGISTRY_S3_ENDPOINT_URL"],
            region=environment["AWS_REGION"],
            access_key=environment["AWS_ACCESS_KEY_ID"],
            secret_key=environment["AWS_SECRET_ACCESS_KEY"],
            ca_bundle=environment.get("AWS_CA_BUNDLE"),
        ),
    )


def _wait_until_ready(options: ServeOptions, running: list[_Kept]) -> None:
    until, answer = time.monotonic() + _READY_S, "no answer"
    while time.monotonic() < until:
        for kept in running:
            if kept.child.exit_code() is not None:
                words = kept.child.last_words(3)
                raise seaweed.StartFailedError(f"The process {kept.child.name} ended while starting: {words}")
        answer = _ask_ready(options)
        if answer == "":
            return
        time.sleep(0.1)
    raise seaweed.StartFailedError(f"The API was not ready within {_READY_S:.0f} s: {answer}")


def _ask_ready(options: ServeOptions) -> str:
    """Nothing if `/readyz` says yes, otherwise what it said."""
    scheme = "https" if options.tls_cert else "http"
    address = f"{scheme}://{bracketed(seaweed.reachable(options.host))}:{options.port}/readyz"
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # Our own child, on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting))
    try:
        with opener.open(address, timeout=2):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return error.read(500).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return str(error)


def _greet(options: ServeOptions, home: Home, environment: Mapping[str, str]) -> None:
    _print(f"Registry:    {options.url}")
    if "REGISTRY_S3_LOCAL_PATH" in environment:
        _print(f"S3 storage:  {environment['REGISTRY_S3_PUBLIC_ENDPOINT_URL']} (signed requests only)")
    if not options.environ.get("REGISTRY_ADMIN_TOKEN") and home.first_showing():
        _print(f"Admin token: {environment['REGISTRY_ADMIN_TOKEN']}")
        _print(f"             shown this once; kept in {home.root / 'admin-token'}")
    if public_host(options.host) != options.host:
        _say(f"Clients are sent to {public_host(options.host)}; REGISTRY_S3_PUBLIC_ENDPOINT_URL names another address.")


@contextmanager
def _signals() -> Iterator[Callable[[list[_Kept]], None]]:
    """Turn the first SIGINT or SIGTERM into `_Stopping`, and ignore those that follow."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise _Stopping

    def until_asked(running: list[_Kept]) -> None:
        while True:
            for kept in running:
                kept.look()
            time.sleep(_LOOK_S)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield until_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
