"""`push`, `pull`, `copy`: the commands that move weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli import _options, _output
from registry.cli._annotations import measurement, pair
from registry.domain.references import Dataset, parse_assignment, parse_dataset, parse_metric

if TYPE_CHECKING:
    from registry.client import Version


@_options.command(
    "push",
    "registry push vision/yolo11n best.safetensors --metric mAP50-95=0.42@coco:val --param lr0=0.01",
    "registry push vision/yolo11n runs/train/weights --parent finetune=vision/yolo11n@production -m 'freeze=10'",
)
@click.argument("name")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, metavar="K=V[@DATASET[:SPLIT]]", help="A number measured on it.")
@click.option("--param", "params", multiple=True, metavar="K=V", help="A hyperparameter.")
@click.option("--parent", "parents", multiple=True, metavar="[RELATION=]REF", help="What it was made from.")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="NAME[=sha256:HEX]",
    help="What metrics were measured on: the digest of a dataset they name, or the dataset of those that name none.",
)
@click.option("--checkpoint", is_flag=True, help="Publish a step of a run, which NAME alone never means.")
@click.option("--variant", help="Format and precision, if it was derived from its one parent.")
@click.option("--new", is_flag=True, help="Take a new number even if the same content is there.")
@click.option("--run", help="The run it comes from.")
@click.option("--tag", "tags", multiple=True, metavar="K=V", help="A note for programs.")
@click.option("--alias", "aliases", multiple=True, metavar="A", help="A name to move to it.")
@click.option("-m", "--message", default="", help="What is different about it.")
@_options.as_json
def push(
    name: str,
    paths: Sequence[Path],
    *,
    metrics: Sequence[str],
    params: Sequence[str],
    parents: Sequence[str],
    datasets: Sequence[str],
    tags: Sequence[str],
    as_json: bool,
    **rest: Any,
) -> None:
    """Publish files or directories as a version.

    Prints NAME:7. What the registry has already is not sent. A push that was interrupted goes on when it is repeated.
    """
    facts = {
        "metrics": _measured(metrics, [parse_dataset(text) for text in datasets]),
        "params": dict(parse_assignment(text) for text in params),
        "tags": dict(pair(text) for text in tags),
        "parents": list(parents),
        **rest,
    }
    with _options.connect() as client, _output.Bars() as bars:
        version = client.push(name, list(paths), progress=bars, **facts)
    _report(version)
    if as_json:
        _output.document(version)
    else:
        _output.result(version.ref)


@_options.command(
    "pull",
    "registry pull vision/yolo11n@production -o weights",
    "registry pull vision/yolo11n:7 --artifact '*.safetensors'",
)
@click.argument("ref")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Where to; else into the cache.")
@click.option("--artifact", "artifacts", multiple=True, metavar="GLOB", help="Only files that fit.")
@click.option("--verify-file", is_flag=True, help="Read every file again at the end and compare its sha256.")
@_options.as_json
def pull(ref: str, *, output: Path | None, artifacts: Sequence[str], verify_file: bool, as_json: bool) -> None:
    """Bring a version's files here, verified.

    Prints the directory. Only bytes that are missing travel: what an older version in the directory has in common
    is reused.
    """
    with _options.connect() as client, _output.Bars() as bars:
        directory = client.pull(ref, output, artifacts=artifacts, verify_file=verify_file, progress=bars)
    _output.say(f"fetched {_output.size(bars.moved)} of {_output.size(bars.total)}")
    if as_json:
        _output.document({"directory": str(directory), "total": bars.total, "moved": bars.moved})
    else:
        _output.result(str(directory))


@_options.command("copy", "registry copy vision/yolo11n:7 release/yolo11n")
@click.argument("ref")
@click.argument("name")
@click.option("-m", "--message", help="Instead of the original's message.")
@_options.as_json
def copy(ref: str, name: str, *, message: str | None, as_json: bool) -> None:
    """Publish a version in another model or namespace.

    The store copies its bytes; nothing is sent again. Prints NAME:7.
    """
    with _options.connect() as client:
        version = client.copy(ref, name, message=message)
    if as_json:
        _output.document(version)
    else:
        _output.result(version.ref)


def _report(version: "Version") -> None:
    transfer = version.transfer
    if transfer is None:
        return
    there = f"; {_output.size(transfer.spared)} were there already" if transfer.spared else ""
    _output.say(f"sent {_output.size(transfer.moved)} of {_output.size(transfer.total)}{there}")
    if version.created is False:
        _output.say(f"{version.ref} has this content already; --new would publish it again")


def _measured(metrics: Sequence[str], datasets: Sequence[Dataset]) -> list[dict[str, Any]]:
    """Metrics as a request takes them, their datasets completed from `--dataset`."""
    known = {dataset.name: dataset for dataset in datasets}
    only = datasets[0] if len(datasets) == 1 else None
    found, used = [], set()
    for text in metrics:
        metric = parse_metric(text)
        dataset = metric.dataset or only
        if dataset is not None:
            used.add(dataset.name)
            dataset = dataset if dataset.sha256 else known.get(dataset.name, dataset)
        found.append(measurement(metric, dataset))
    for name in known.keys() - used:
        raise click.UsageError(f"No --metric was measured on the dataset {name!r}")
    return found
