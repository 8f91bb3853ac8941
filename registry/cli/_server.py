"""`serve`, `api`, `worker`, `db upgrade`: the server, imported only when one of them runs."""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry.cli import _options
from registry.domain.errors import LocalError, UnavailableError

if TYPE_CHECKING:
    from registry.config import Config

Function = TypeVar("Function", bound=Callable[..., Any])

_OURS = "registry"
_TLS_CERT = click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain (PEM).")
_TLS_KEY = click.option("--tls-key", type=click.Path(path_type=Path), help="Its key (PEM).")


class ServerNotInstalledError(LocalError):
    """A server command was given where only the client is installed."""

    code = "SERVER_NOT_INSTALLED"
    remedy = "Install the package with its extra: pip install 'weight-registry[server]'."


class SchemaOutdatedError(UnavailableError):
    """The database was not brought to the schema of this release."""

    code = "SCHEMA_OUTDATED"
    remedy = "Run 'registry db upgrade' once, then start the server."


def _with_server(function: Function) -> Function:
    """Say how to install the server if a package of it is missing."""

    @wraps(function)
    def guarded(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == _OURS:
                raise
            raise ServerNotInstalledError(f"The server needs the package {error.name}.") from None

    return guarded  # type: ignore[return-value]


@_options.command("serve", "registry serve", "registry serve --host 192.168.1.10 --port 80")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen: API, pages and S3.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="For API and pages.")
@click.option("--s3-port", type=click.IntRange(1, 55535), default=8333, show_default=True, help="For S3.")
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="REGISTRY_HOME",
    show_envvar=True,
    default=Path("~/.local/share/weight-registry"),
    show_default=True,
    help="Where everything is kept.",
)
@_TLS_CERT
@_TLS_KEY
@_with_server
def serve(*, host: str, port: int, s3_port: int, home: Path, tls_cert: Path | None, tls_key: Path | None) -> int:
    """Run everything on this machine.

    That is API, pages, worker, database and object store. The first start prints an administrator's token.
    Ctrl-C stops all of it.
    """
    _check_tls(tls_cert, tls_key)
    from registry.embedded.supervisor import ServeOptions, run

    environment = dict(os.environ)  # noqa: TID251 - handed on to the processes it starts, which read their settings
    options = ServeOptions(
        home=home.expanduser(),
        upgrade=_upgrade,
        environ=environment,
        host=host,
        port=port,
        s3_port=s3_port,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    return run(options)


@_options.command("api", "registry api --host 0.0.0.0 --port 8080 --workers 4")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Where to listen.")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes.")
@click.option("--threads", type=click.IntRange(1, 256), default=12, show_default=True, help="In each process.")
@_TLS_CERT
@_TLS_KEY
@_with_server
def api(*, host: str, port: int, workers: int, threads: int, tls_cert: Path | None, tls_key: Path | None) -> None:
    """Run the API and the pages.

    Database and S3 are what the environment names.
    """
    _check_tls(tls_cert, tls_key)
    from granian import Granian
    from granian.constants import Interfaces

    from registry.config import Config

    _admit(Config.from_environment())  # what is wrong is told here, once, not by each process
    Granian(
        f"{__name__}:served_app",
        factory=True,
        interface=Interfaces.WSGI,
        address=host,
        port=port,
        workers=workers,
        blocking_threads=threads,
        ssl_cert=tls_cert,
        ssl_key=tls_key,
        log_access=False,
        respawn_failed_workers=True,
    ).serve()


def served_app() -> object:
    """The application, in one of the API's processes: it dies with the one that started it.

    Left alone it would go on serving, and keep the port from the API that is started next.
    """
    import multiprocessing

    from registry.app import create_app
    from registry.embedded.child import die_with_parent

    started_by = multiprocessing.parent_process()
    if started_by is not None:
        die_with_parent(signal.SIGKILL, parent=started_by.pid)()
    app = create_app()
    _when_told_to_end(app.extensions["registry.heads"].end)
    return app


def _when_told_to_end(act: Callable[[], None]) -> None:
    """Act as soon as a signal arrives whose handler is somebody else's: the server's, which then waits for requests."""
    seen, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)

    def watch() -> None:
        while os.read(seen, 1)[0] not in (signal.SIGTERM, signal.SIGINT):
            continue
        act()

    threading.Thread(target=watch, name="registry-end", daemon=True).start()


@_options.command("worker", "registry worker")
@_with_server
def worker() -> int:
    """Run the worker: proves what was published, tidies up. Any number may run."""
    from registry.app import store_of
    from registry.config import Config
    from registry.jobs.worker import run

    config = Config.from_environment()
    return run(config, store_of(config))


@_options.group("db", "registry db upgrade")
def db() -> None:
    """The database's schema."""


@db.command("upgrade", epilog="\b\nExample:\n  registry db upgrade")
@_with_server
def db_upgrade() -> None:
    """Bring the database to the schema of this release. Safe to repeat; run it before the new API starts."""
    _upgrade(None)


def _upgrade(environment: Mapping[str, str] | None) -> None:
    from registry.config import Config
    from registry.db.session import Database
    from registry.db.upgrade import upgrade

    config = Config.from_environment(environment)
    database = Database(config.database_url)
    try:
        upgrade(database)
    finally:
        database.dispose()
    _admit(config)


def _admit(config: "Config") -> None:
    """See that the database is usable, and that the operator's token is an administrator's.

    Raises DatabaseUnavailableError, SchemaOutdatedError, StageNameTakenError or InvalidSettingError.
    """
    from registry.db.session import Database, now
    from registry.db.upgrade import is_current
    from registry.services import accounts, pointers

    database = Database(config.database_url)
    try:
        with database.transaction(read_only=True) as session:
            if not is_current(session.connection()):
                raise SchemaOutdatedError("The database does not have the schema of this release.")
        with database.transaction() as session:
            pointers.check_stage_names(session, config.stages)
            accounts.bootstrap(session, config.admin_token, now=now(session))
    finally:
        database.dispose()


def _check_tls(certificate: Path | None, key: Path | None) -> None:
    if (certificate is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
