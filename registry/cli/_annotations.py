"""`metrics`, `alias`, `tag`: what is said about a version after it was published."""

from collections.abc import Sequence
from typing import Any

import click

from registry.cli import _options, _output
from registry.domain.digest import format_digest
from registry.domain.references import Dataset, MetricArgument, parse_metric, parse_reference


@_options.command(
    "metrics",
    "registry metrics vision/yolo11n@production",
    "registry metrics vision/yolo11n:7 --add mAP50-95=0.43@coco:val",
)
@click.argument("ref")
@click.option("--add", multiple=True, metavar="K=V[@DATASET[:SPLIT]]", help="Record a number measured on it.")
@_options.as_json
def metrics(ref: str, *, add: Sequence[str], as_json: bool) -> None:
    """Show the numbers measured on a version, or add some."""
    measured = [parse_metric(text) for text in add]
    with _options.connect() as client:
        if measured:
            count = client.log_metrics(ref, [measurement(metric, metric.dataset) for metric in measured])
            _output.say(f"added {count}")
            return
        found = client.metrics(ref)
        if as_json:
            _output.documents(found)
            return
        columns = ("METRIC", "VALUE", "STEP", "DATASET", "SPLIT", "SLICE", "BY", "AT")
        rows = [
            (
                each.name,
                _output.number(each.value),
                each.step,
                each.dataset,
                each.split,
                each.slice,
                each.recorded_by,
                each.recorded_at,
            )
            for each in found
        ]
    _output.table(columns, rows, shrink=("METRIC",))


def measurement(metric: MetricArgument, dataset: Dataset | None) -> dict[str, Any]:
    """A metric as a request says it."""
    return {
        "name": metric.name,
        "value": metric.value,
        "dataset": dataset.name if dataset else None,
        "dataset_digest": format_digest(dataset.sha256) if dataset and dataset.sha256 else None,
        "split": metric.split,
    }


def pair(text: str) -> tuple[str, str]:
    """Key and value of `K=V`; the value stays text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"The tag {text!r} has no '='")
    return key, value


@_options.group("alias", "registry alias set vision/yolo11n:7 candidate")
def alias() -> None:
    """Movable names of versions: NAME@ALIAS."""


@alias.command("set", epilog="\b\nExample:\n  registry alias set vision/yolo11n:7 candidate")
@click.argument("ref")
@click.argument("alias")
def alias_set(ref: str, alias: str) -> None:
    """Make NAME@ALIAS mean this version."""
    with _options.connect() as client:
        moved = client.set_alias(ref, alias)
    _output.result(f"{parse_reference(ref).model}:{moved.number}")


@alias.command("rm", epilog="\b\nExample:\n  registry alias rm vision/yolo11n candidate")
@click.argument("name")
@click.argument("alias")
def alias_rm(name: str, alias: str) -> None:
    """Remove an alias; the version stays."""
    with _options.connect() as client:
        client.remove_alias(name, alias)


@alias.command("list", epilog="\b\nExample:\n  registry alias list vision/yolo11n")
@click.argument("name")
@_options.as_json
def alias_list(name: str, *, as_json: bool) -> None:
    """Show the aliases of a model."""
    with _options.connect() as client:
        found = client.aliases(name)
        if as_json:
            _output.documents(found)
            return
        rows = [(each.alias, each.number, each.by, each.at) for each in found]
    _output.table(("ALIAS", "VERSION", "BY", "AT"), rows, shrink=("ALIAS",))


@_options.group("tag", "registry tag set vision/yolo11n:7 licence=apache-2.0")
def tag() -> None:
    """Free notes on a version or model, as KEY=VALUE."""


_OF_MODEL = click.option("--model", "of_model", is_flag=True, help="REF is a model's name: tag the model itself.")


@tag.command("set", epilog="\b\nExample:\n  registry tag set vision/yolo11n:7 licence=apache-2.0")
@click.argument("ref")
@click.argument("tags", nargs=-1, required=True, metavar="K=V...")
@_OF_MODEL
def tag_set(ref: str, tags: Sequence[str], *, of_model: bool) -> None:
    """Set tags of a version."""
    pairs = [pair(text) for text in tags]
    with _options.connect() as client:
        for key, value in pairs:
            if of_model:
                client.set_model_tag(ref, key, value)
            else:
                client.set_tag(ref, key, value)


@tag.command("rm", epilog="\b\nExample:\n  registry tag rm vision/yolo11n:7 licence")
@click.argument("ref")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@_OF_MODEL
def tag_rm(ref: str, keys: Sequence[str], *, of_model: bool) -> None:
    """Remove tags of a version."""
    with _options.connect() as client:
        for key in keys:
            if of_model:
                client.remove_model_tag(ref, key)
            else:
                client.remove_tag(ref, key)
