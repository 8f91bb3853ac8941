"""`list`, `versions`, `show`, `resolve`, `lineage`, `delete`, `restore`: what was published."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import click

from registry.cli import _health, _options, _output

if TYPE_CHECKING:
    from registry.client import Version
    from registry.wire import HealthOut, LineageItem, ModelOut, ParentOut, StageHolder


@_options.command("list", "registry list --namespace vision")
@click.option("--namespace", help="Only models of this namespace.")
@_options.limit
@_options.as_json
def list_(*, namespace: str | None, limit: int | None, as_json: bool) -> None:
    """Show the models, their newest release and who is on which stage."""
    with _options.connect() as client:
        found = client.models(namespace=namespace, limit=limit)
        if as_json:
            _output.documents(found)
            return
        rows = [(model.name, model.latest, _holders(model), _output.first_line(model.description)) for model in found]
    _output.table(("MODEL", "LATEST", "STAGES", "DESCRIPTION"), rows, shrink=("DESCRIPTION", "STAGES"))


@_options.command("versions", "registry versions vision/yolo11n --limit 20")
@click.argument("name")
@click.option("--kind", type=click.Choice(["release", "checkpoint"]), help="Only these.")
@click.option("--trashed", is_flag=True, help="Those in the trash instead.")
@_options.limit
@_options.as_json
def versions(
    name: str,
    *,
    kind: Literal["release", "checkpoint"] | None,
    trashed: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Show the versions of a model, newest first."""
    with _options.connect() as client:
        found = client.versions(name, kind=kind, state="trashed" if trashed else None, limit=limit)
        if as_json:
            _output.documents(found)
            return
        rows = [
            (
                each.number,
                ", ".join(filter(None, (each.kind if each.kind != "release" else "", each.variant))),
                _output.size(each.size),
                each.created_at,
                each.created_by,
                ", ".join([*each.stages, *each.aliases]),
                " ".join(f"{metric}={_output.number(value)}" for metric, value in each.metrics.items()),
                _output.first_line(each.message),
            )
            for each in found
        ]
    _output.table(
        ("VERSION", "KIND", "SIZE", "PUBLISHED", "BY", "NAMES", "METRICS", "MESSAGE"),
        rows,
        shrink=("MESSAGE", "METRICS", "NAMES"),
    )


@_options.command("show", "registry show vision/yolo11n@production")
@click.argument("ref")
@_options.as_json
def show(ref: str, *, as_json: bool) -> None:
    """Show all that is known of a version."""
    with _options.connect() as client:
        version = client.version(ref)
        health = client.health(version.ref)
        holders = list(client.stages(version.model)) if version.stages else []
    if as_json:
        _output.document(version.model_dump(mode="json") | {"health_details": health.model_dump(mode="json")})
        return
    _describe(version, health, [each for each in holders if each.stage in version.stages])
    click.echo()
    columns = ("ARTIFACT", "SIZE", "FORMAT", "TENSORS", "SHA256")
    rows = [
        (
            each.path,
            _output.size(each.size),
            f"{each.format} (pickle)" if each.pickle and each.format != "pickle" else each.format,
            each.tensor_count or "",
            each.digest.removeprefix("sha256:"),
        )
        for each in version.artifacts
    ]
    _output.table(columns, rows, shrink=("SHA256", "ARTIFACT"))


@_options.command("resolve", "registry resolve vision/yolo11n@production")
@click.argument("ref")
@_options.as_json
def resolve(ref: str, *, as_json: bool) -> None:
    """Print which version a reference means now."""
    with _options.connect() as client:
        found = client.resolve(ref)
    if as_json:
        _output.document(found)
    else:
        _output.result(f"{found.model}:{found.number} ({found.digest})")


@_options.command("lineage", "registry lineage vision/yolo11n:7", "registry lineage vision/yolo11n:1 --down")
@click.argument("ref")
@click.option("--down", is_flag=True, help="What was made from it, instead of what it was made from.")
@click.option("--depth", type=click.IntRange(1), help="At most so many steps away.")
@_options.as_json
def lineage(ref: str, *, down: bool, depth: int | None, as_json: bool) -> None:
    """Show what a version was made from, or what was made from it."""
    with _options.connect() as client:
        start = client.resolve(ref)
        found = list(client.lineage(f"{start.model}:{start.number}", direction="down" if down else "up", depth=depth))
    if as_json:
        _output.documents(found)
        return
    for line in _tree(f"{start.model}:{start.number}", found, down=down):
        _output.result(line)


@_options.command("delete", "registry delete vision/yolo11n:7")
@click.argument("ref")
def delete(ref: str) -> None:
    """Put a version into the trash, from where it can be restored.

    What is on a stage, aliased or a parent of another version is refused.
    """
    with _options.connect() as client:
        found = client.resolve(ref)
        client.delete(f"{found.model}:{found.number}")
    _output.say(f"{found.model}:{found.number} is in the trash; 'registry restore' brings it back")


@_options.command("restore", "registry restore vision/yolo11n:7")
@click.argument("ref")
def restore(ref: str) -> None:
    """Take a version, named as NAME:7, out of the trash."""
    with _options.connect() as client:
        version = client.restore(ref)
    _output.result(version.ref)


def _holders(model: "ModelOut") -> str:
    return ", ".join(f"{each.stage}={each.version}" for each in model.stages if each.version is not None)


def _running(holder: "StageHolder") -> str:
    """Who that follows the stage runs what: `3 consumers run 7, 1 still runs 6`."""
    counts = dict(holder.consumers or {})
    present = counts.pop(str(holder.version), 0)
    said = [f"{present} consumer{'s run' if present != 1 else ' runs'} {holder.version}"]
    said += [f"{count} still {'run' if count != 1 else 'runs'} {number}" for number, count in counts.items()]
    return ", ".join(said)


def _describe(version: "Version", health: "HealthOut", holders: "Sequence[StageHolder]") -> None:
    _output.result(version.ref)
    _output.fields(
        {
            "digest": version.digest,
            "published": f"{_output.when(version.created_at)} by {version.created_by}",
            "kind": version.kind,
            "variant": version.variant,
            "state": version.state if version.state != "ready" else None,
            "integrity": version.integrity,
            "health": _health.lines(health),
            "size": _output.size(version.size),
            "message": version.message,
            "stages": version.stages,
            "consumers": "\n".join(f"{each.stage}: {_running(each)}" for each in holders if each.consumers),
            "aliases": version.aliases,
            "parents": [_parent(parent) for parent in version.parents],
            "run": version.run,
            "metrics": "\n".join(f"{name} = {_output.number(value)}" for name, value in version.metrics.items()),
            "params": "\n".join(f"{name} = {value}" for name, value in version.params.items()),
            "tags": "\n".join(f"{name} = {value}" for name, value in version.tags.items()),
            "classes": len(version.class_names) or None,
        }
    )


def _parent(parent: "ParentOut") -> str:
    return f"{parent.relation} {parent.ref or parent.uri or '(not readable)'}"


def _tree(root: str, edges: "Iterable[LineageItem]", *, down: bool) -> list[str]:
    """The walk as an indented tree; what was drawn before is only named again."""
    below: dict[str | None, list[tuple[str, str]]] = {}
    for edge in edges:
        near, far = (edge.parent, edge.child) if down else (edge.child, edge.parent or edge.uri)
        below.setdefault(near, []).append((edge.relation, far or "(not readable)"))
    lines, drawn = [root], {root}

    def draw(name: str, indent: str) -> None:
        children = below.get(name, [])
        for index, (relation, child) in enumerate(children):
            last = index == len(children) - 1
            lines.append(f"{indent}{'└─' if last else '├─'} {relation} {child}")
            if child not in drawn:
                drawn.add(child)
                draw(child, indent + ("   " if last else "│  "))

    draw(root, "")
    return lines
