"""`follow`: a directory that is always what a reference means, and a command for each change."""

import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

import click

from registry.cli import _options, _output

if TYPE_CHECKING:
    from registry.client._follow import Change, Follower


_STOPS = (signal.SIGTERM, signal.SIGINT)


class _Stopping(BaseException):
    """SIGTERM or SIGINT arrived. Not an Exception: nothing on the way may take it for an error."""


class _Signals:
    """They end whatever is done, but a command that runs ends by itself and is noted first."""

    def __init__(self) -> None:
        self.is_busy = False
        self.asked = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = number
        if not self.is_busy:
            raise _Stopping

    def __enter__(self) -> Self:
        self._before = [(each, signal.signal(each, self)) for each in _STOPS]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each, handler in self._before:
            signal.signal(each, handler)

    def ignore(self) -> None:
        """What is left to do is short, and is to be done once."""
        for each in _STOPS:
            signal.signal(each, signal.SIG_IGN)

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False
        if self.asked:
            raise _Stopping


@_options.command(
    "follow",
    "registry follow vision/yolo11n@production -o /srv/weights --exec './reload.sh --fast'",
    "registry follow vision/yolo11n@production -o /srv/weights --exec 'kill -HUP $(cat server.pid)' --shell",
)
@click.argument("ref")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="What to hold; else in the cache.")
@click.option("--exec", "command", metavar="CMD", help="Run this when DIR has changed.")
@click.option("--shell", is_flag=True, help="Have /bin/sh run CMD, instead of running it as it is.")
@click.option("--every", is_flag=True, help="Visit each change of a stage in its order; else only the last one counts.")
@click.option(
    "--poll",
    type=click.FloatRange(0.05, 3600),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks.",
)
@click.option("--name", metavar="NAME", help="Who runs it, for `registry show`; else this machine and DIR.")
@_options.as_json
def follow(
    ref: str,
    *,
    output: Path | None,
    command: str | None,
    shell: bool,
    every: bool,
    poll: float,
    name: str | None,
    as_json: bool,
) -> int:
    """Keep a directory at what a reference means, and run a command on change.

    DIR is a link that always leads to one whole version; it moves in one step, and the version before is removed when
    CMD has ended. CMD finds REGISTRY_SEQ, REGISTRY_VERSION, REGISTRY_MODEL, REGISTRY_REF and REGISTRY_DIR in its
    environment. It runs at least once for the last change, never twice at a time, and for the same seq again only if
    this was killed while it ran. If it fails that is reported, and not repeated.
    Outages are waited for. SIGTERM and Ctrl-C end it, after the command that runs.
    """
    if shell and command is None:
        raise click.UsageError("--shell is about --exec CMD")
    with _options.connect() as client:
        follower = client.follower(
            ref,
            output or _place(ref),
            every=every,
            poll=poll,
            name=name,
            log=_output.say,
            is_resumed=command is not None,
        )
        arguments = _arguments(command, shell=shell) if command is not None else None
        with _Signals() as signals, closing(follower.changes()) as changes:
            try:
                for change in changes:
                    with signals.busy():
                        _report(change, as_json=as_json)
                        failure = _run(follower, change, arguments) if arguments is not None else ""
                        follower.finish(change, failure)
            except _Stopping:
                signals.ignore()
                _output.say("stopped")
        return 130 if signals.asked == signal.SIGINT else 0


def _arguments(command: str, *, shell: bool) -> Sequence[str]:
    try:
        arguments = ["/bin/sh", "-c", command] if shell else shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"CMD cannot be split into words: {error}") from None
    if not arguments:
        raise click.UsageError("CMD is empty")
    return arguments


def _run(follower: "Follower", change: "Change", arguments: Sequence[str]) -> str:
    """Run the command for a change. Gives what went wrong, or nothing."""
    from registry.client import _command

    variables = {
        "REGISTRY_SEQ": str(change.seq),
        "REGISTRY_VERSION": str(change.version.number),
        "REGISTRY_MODEL": change.version.model,
        "REGISTRY_REF": change.ref,
        "REGISTRY_DIR": str(change.directory),
    }
    code = _command.run(arguments, variables, noted=lambda process: follower.note(change, process))
    if code == 0:
        return ""
    said = f"the command ended with {code}" if code > 0 else f"the command was ended by signal {-code}"
    _output.say(f"{said} for {change.version.ref} (seq {change.seq})")
    return said


def _report(change: "Change", *, as_json: bool) -> None:
    if as_json:
        facts = {"ref": change.ref, "seq": change.seq, "model": change.version.model, "version": change.version.number}
        _output.document(facts | {"directory": str(change.directory)})
        return
    _output.say(f"{change.directory} is {change.version.ref}")
    _output.result(change.version.ref)


def _place(ref: str) -> Path:
    """Where a reference is held if no directory was named."""
    from registry.config import ClientConfig
    from registry.domain.references import parse_reference

    reference = parse_reference(ref)
    selector = reference.selector.replace(":", "_") or "@newest"
    cache = ClientConfig.from_environment().cache.expanduser()
    return cache / "followed" / reference.model.namespace / f"{reference.model.name}{selector}"
