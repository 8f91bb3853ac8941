"""`stages` and `policy`: which stages there are, who held them, and what it takes to move one."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli import _options, _output

if TYPE_CHECKING:
    from registry.client import Client
    from registry.wire import PolicyOut

_NAMESPACE = click.option("--namespace", is_flag=True, help="NAME is a namespace: what its models share.")


@_options.command(
    "stages",
    "registry stages vision/yolo11n",
    "registry stages vision/yolo11n --since 2026-11-01 --until 2026-11-30",
    "registry stages vision --namespace --set canary,staging,production",
)
@click.argument("name")
@_options.since
@_options.until
@click.option("--set", "names", metavar="STAGE,…", help="Name the stages, in the order a version climbs.")
@click.option("--unset", is_flag=True, help="Name none: those of the namespace, or of the server, count.")
@_NAMESPACE
@_options.as_json
def stages(
    name: str,
    *,
    since: datetime | None,
    until: datetime | None,
    names: str | None,
    unset: bool,
    namespace: bool,
    as_json: bool,
) -> None:
    """Show who holds each stage, or who held it at two times; or name the stages there are."""
    if unset and names is not None:
        raise click.UsageError("--set and --unset exclude each other.")
    if until is not None and since is None:
        raise click.UsageError("--until needs --since.")
    with _options.connect() as client:
        if names is not None or unset or namespace:
            _name(client, name, names.split(",") if names else None, change=names is not None or unset,
                  namespace=namespace, as_json=as_json)  # fmt: skip
        elif since is not None:
            _show_changes(client, name, since, until, as_json=as_json)
        else:
            _show_holders(client, name, as_json=as_json)


def _name(
    client: "Client", name: str, names: list[str] | None, *, change: bool, namespace: bool, as_json: bool
) -> None:
    if not change:
        found = client.namespace_stages(name)
    else:
        found = (client.name_namespace_stages if namespace else client.name_stages)(name, names)
    if as_json:
        _output.document(found)
    else:
        _output.result(f"{', '.join(found.stages)} (named by the {found.scope})")


def _show_holders(client: "Client", name: str, *, as_json: bool) -> None:
    found = client.stages(name)
    if as_json:
        _output.documents(found)
        return
    rows = [(each.stage, each.version or "none", each.since, each.by) for each in found]
    _output.table(("STAGE", "VERSION", "SINCE", "BY"), rows)


def _show_changes(client: "Client", name: str, since: datetime, until: datetime | None, *, as_json: bool) -> None:
    found = client.changes(name, since=since, until=until)
    if as_json:
        _output.documents(found)
        return
    rows = [(each.stage, each.before.version or "none", each.after.version or "none", each.moves) for each in found]
    _output.table(("STAGE", "THEN", "AFTERWARDS", "MOVES"), rows)


@_options.command(
    "policy",
    "registry policy vision/yolo11n production",
    "registry policy vision/yolo11n production --set policy.json -m 'two approvals from now on'",
    "registry policy vision production --namespace --set policy.json",
)
@click.argument("name")
@click.argument("stage")
@click.option(
    "--set",
    "source",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Set it from a JSON file, or from - for stdin.",
)
@click.option("--unset", is_flag=True, help="Take the model's own policy away, so that its namespace's counts.")
@_NAMESPACE
@_options.message
@_options.as_json
def policy(
    name: str, stage: str, *, source: Path | None, unset: bool, namespace: bool, message: str, as_json: bool
) -> None:
    """Show or set what a stage asks of a promotion."""
    if unset and source is not None:
        raise click.UsageError("--set and --unset exclude each other.")
    with _options.connect() as client:
        if source is not None or unset:
            document = None if source is None else _read(source)
            put = client.set_namespace_policy if namespace else client.set_policy
            found = put(name, stage, document, message=message)
        else:
            found = (client.namespace_policy if namespace else client.policy)(name, stage)
    _show_policy(found, as_json=as_json)


def _read(source: Path) -> dict[str, Any]:
    with click.open_file(str(source), encoding="utf-8") as file:
        try:
            document = json.load(file)
        except ValueError as error:
            raise click.UsageError(f"{source} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise click.UsageError(f"{source} is not a JSON object.")
    return document


def _show_policy(found: "PolicyOut", *, as_json: bool) -> None:
    if as_json:
        _output.document(found)
        return
    if found.scope is None:
        _output.say(f"{found.stage} asks for nothing")
    else:
        _output.say(f"revision {found.revision} of the {found.scope}'s policy, by {found.by}")
    _output.document(found.policy or {})
