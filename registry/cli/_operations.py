"""`storage`, `events`, `cache`: what is stored, what happened, what is kept here."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from registry.cli import _options, _output
from registry.domain import audit
from registry.domain.digest import format_digest
from registry.domain.errors import ConflictError

if TYPE_CHECKING:
    from registry.client._cache import Cache
    from registry.wire import EventOut

_NAMESPACE = click.option(
    "--namespace", default="default", show_default=True, help="Whose; _system for users and tokens."
)


class ChainBrokenError(ConflictError):
    """The audit chain of a namespace does not verify: an event was altered, removed or put in."""

    code = "AUDIT_CHAIN_BROKEN"
    remedy = "Keep a copy of the database and find out who could write to it."


@_options.command("storage", "registry storage --namespace vision")
@click.option("--namespace", help="Only what this namespace holds.")
@_options.as_json
def storage(*, namespace: str | None, as_json: bool) -> None:
    """Show how many bytes are versioned, and how many stored."""
    with _options.connect() as client:
        used = client.storage(namespace=namespace)
    if as_json:
        _output.document(used)
        return
    share = f" ({used.stored_bytes / used.logical_bytes:.1%})" if used.logical_bytes else ""
    _output.fields(
        {
            "versions": _output.size(used.logical_bytes),
            "stored": _output.size(used.stored_bytes) + share,
            "objects": f"{used.objects:,}",
            "segments": f"{used.segments:,}",
            "whole, for stages": _output.size(used.whole_bytes) if used.whole_objects else None,
        }
    )


@click.group(
    "events",
    invoke_without_command=True,
    epilog="\b\nExamples:\n  registry events --namespace vision\n  registry events verify --namespace vision",
)
@_NAMESPACE
@_options.limit
@_options.as_json
@click.pass_context
def events(ctx: click.Context, *, namespace: str, limit: int | None, as_json: bool) -> None:
    """Show what happened in a namespace, oldest first."""
    if ctx.invoked_subcommand is None:
        _list(namespace, limit, as_json=as_json)


@events.command("list", epilog="\b\nExample:\n  registry events list --namespace vision")
@_NAMESPACE
@_options.limit
@_options.as_json
def events_list(*, namespace: str, limit: int | None, as_json: bool) -> None:
    """Show what happened in a namespace, oldest first."""
    _list(namespace, limit, as_json=as_json)


@events.command("verify", epilog="\b\nExample:\n  registry events verify --namespace vision")
@_NAMESPACE
def events_verify(*, namespace: str) -> None:
    """Check that nothing in a namespace's audit chain was altered, removed or put in.

    The last hash is printed: kept elsewhere, it later shows that nothing was cut off the end.
    """
    last, count = audit.GENESIS, 0

    def chain(found: "Iterator[EventOut]") -> Iterator[audit.Event]:
        nonlocal last, count
        for each in found:
            last, count = each.hash, count + 1
            yield audit.Event(
                each.chain,
                each.seq,
                each.actor,
                each.action,
                each.subject,
                audit.event_time(each.at),
                each.detail,
                each.previous_hash,
                each.hash,
            )

    with _options.connect() as client:
        broken = audit.verify(chain(client.events(namespace)))
    if broken is not None:
        raise ChainBrokenError(f"The audit chain of {namespace} is broken at event {broken}.", seq=broken)
    _output.result(f"{count} events of {namespace} verify, the last is {format_digest(last)}")


@_options.group("cache", "registry cache list", "registry cache prune --max-size 20")
def cache() -> None:
    """Versions kept on this machine, pulled without -o."""


@cache.command("list", epilog="\b\nExample:\n  registry cache list --json")
@_options.as_json
def cache_list(*, as_json: bool) -> None:
    """Show what is kept, the last used first."""
    found = _cache().kept()
    used = [datetime.fromtimestamp(each.used_at, UTC) for each in found]
    if as_json:
        items = [
            {
                "model": each.model,
                "number": each.number,
                "digest": format_digest(each.digest),
                "size": each.size,
                "used_at": at.isoformat(timespec="seconds").replace("+00:00", "Z"),
                "directory": str(each.path),
            }
            for each, at in zip(found, used, strict=True)
        ]
        _output.document({"items": items})
        return
    rows = [
        (f"{each.model}:{each.number}" if each.model else "unfinished", _output.size(each.size), at, each.path)
        for each, at in zip(found, used, strict=True)
    ]
    _output.table(("VERSION", "SIZE", "USED", "DIRECTORY"), rows, shrink=("DIRECTORY",))


@cache.command(
    "prune", epilog="\b\nExample:\n  registry cache prune --unused-days 7\n  registry cache prune --max-size 20"
)
@click.option("--unused-days", type=click.FloatRange(0), help="Remove what was not used for so long.")
@click.option("--max-size", type=click.FloatRange(0), help="Remove what was not used for longest, down to so many GB.")
def cache_prune(*, unused_days: float | None, max_size: float | None) -> None:
    """Remove versions from the cache; without an option those that were not used for 30 days.

    A version that is being pulled stays. A program that has opened or mapped a file keeps the bytes.
    """
    kept = _cache()
    if unused_days is None and max_size is None:
        unused_days = 30.0
    versions = freed = 0
    if unused_days is not None:
        pruned = kept.prune(unused_days=unused_days)
        versions, freed = pruned.versions, pruned.freed_bytes
    if max_size is not None:
        pruned = kept.make_room(int(max_size * 10**9))
        versions, freed = versions + pruned.versions, freed + pruned.freed_bytes
    _output.result(f"removed {versions} versions, {_output.size(freed)}")


def _cache() -> "Cache":
    from registry.client._cache import Cache
    from registry.config import ClientConfig

    return Cache(ClientConfig.from_environment().cache)


def _list(namespace: str, limit: int | None, *, as_json: bool) -> None:
    with _options.connect() as client:
        found = client.events(namespace, limit=limit)
        if as_json:
            _output.stream(found)
            return
        rows = [(each.seq, each.at, each.actor, each.action, each.subject) for each in found]
    _output.table(("SEQ", "AT", "ACTOR", "ACTION", "SUBJECT"), rows, shrink=("SUBJECT",))
