"""`diff`: what changed between two versions, by module or tensor by tensor."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from registry.cli import _options, _output
from registry.weights.diff import Kind

if TYPE_CHECKING:
    from registry.client import Diff
    from registry.wire import ModuleDiff, TensorChange, TensorDiff

_CLASSES: "tuple[TensorChange, ...]" = tuple(kind.value for kind in Kind)
_SAID = {
    "identical": ("identical: the files are the same", "green"),
    "same_weights": ("same weights: every tensor is the same, the files are not", "green"),
    "different": ("different", "yellow"),
    "unknown": ("not known yet", "yellow"),
}


@_options.command(
    "diff",
    "registry diff vision/yolo11n:6 vision/yolo11n:7",
    "registry diff vision/yolo11n@production vision/yolo11n --stats --class changed",
)
@click.argument("a")
@click.argument("b")
@click.option("--stats", is_flag=True, help="Also measure how far changed tensors moved; a worker reads both versions.")
@click.option("--modules/--tensors", "by_module", default=True, help="One line a module (the default), or a tensor.")
@click.option(
    "--class", "classes", multiple=True, type=click.Choice(_CLASSES), help="Only tensors of this class; lists tensors."
)
@click.option("--exit-code", is_flag=True, help="Exit with 1 unless the weights are the same.")
@_options.as_json
def diff(
    a: str,
    b: str,
    *,
    stats: bool,
    by_module: bool,
    classes: "Sequence[TensorChange]",
    exit_code: bool,
    as_json: bool,
) -> int:
    """Show what changed from version A to version B.

    Told from digests, so at once. Tensors are identical, changed, added, removed, reshaped, retyped or renamed (the
    same bytes under another name). Without --class, --tensors leaves out those that are identical.
    """
    by_module = by_module and not classes
    asked = classes or (() if by_module or as_json else [each for each in _CLASSES if each != "identical"])
    with _options.connect() as client, _waiting() as progress:
        found = client.diff(a, b, statistics=stats, classes=asked, progress=progress)
    if as_json:
        _output.document(found)
    else:
        _verdict(found)
        (_modules if by_module else _tensors)(found, stats=stats)
    return int(exit_code and not found.is_same)


def _verdict(found: "Diff") -> None:
    words, colour = _SAID[found.verdict]
    if found.verdict == "unknown":
        words += f", no worker has read {' and '.join({'a': found.a, 'b': found.b}[side] for side in found.pending)}"
    click.echo(f"{_output.clean(f'{found.a} → {found.b}')}  {click.style(words, fg=colour, bold=True)}")
    parts = [f"{count.count:,} {change} ({_output.size(count.size)})" for change, count in found.summary.items()]
    _output.result(f"tensors: {', '.join(parts) or 'none'}")
    files = [each for each in found.artifacts or () if each.change != "identical"]
    if files:
        shown = ", ".join(f"{each.path} {each.change}" for each in files[:5])
        _output.result(f"files: {shown}{f' and {len(files) - 5:,} more' if len(files) > 5 else ''}")


def _modules(found: "Diff", *, stats: bool) -> None:
    def cells(module: "ModuleDiff") -> Iterator[object]:
        yield module.name or "(none)"
        for change in changes:
            yield module.counts[change].count if change in module.counts else ""
        yield _output.size(module.changed_size) if module.changed_size else ""
        if stats:
            yield _figure(module.relative_l2)

    every = found.modules or []
    modules = [module for module in every if set(module.counts) != {"identical"}]
    changes = [change for change in _CLASSES if change in found.summary]
    titles = ("MODULE", *(change.upper() for change in changes), "CHANGED BYTES", *(("RELATIVE L2",) if stats else ()))
    if modules:
        click.echo()
        _output.table(titles, [tuple(cells(module)) for module in modules], shrink=("MODULE",))
    if modules and len(modules) < len(every):
        _output.result(f"nothing changed in {len(every) - len(modules):,} other modules")


def _tensors(found: "Diff", *, stats: bool) -> None:
    def cells(tensor: "TensorDiff") -> Iterator[object]:
        sides = [side for side in (tensor.a, tensor.b) if side is not None]
        yield tensor.change
        yield " → ".join([side.name for side in sides] if tensor.change == "renamed" else [tensor.name])
        yield " → ".join(dict.fromkeys(side.dtype for side in sides))
        yield " → ".join(dict.fromkeys(_shape(side.shape) for side in sides))
        yield _output.size(sides[-1].size)
        if stats and tensor.distance is not None:
            yield from map(_figure, (tensor.distance.relative_l2, tensor.distance.max_abs, tensor.distance.cosine))
            yield f"{tensor.distance.equal_share:.1%}"
        elif stats:
            yield from ("", "", "", "")

    measured = ("RELATIVE L2", "MAX ABS", "COSINE", "EQUAL") if stats else ()
    titles = ("CLASS", "TENSOR", "DTYPE", "SHAPE", "SIZE", *measured)
    click.echo()
    _output.table(titles, [tuple(cells(tensor)) for tensor in found.tensors], shrink=("TENSOR", "SHAPE"))


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


@contextmanager
def _waiting() -> Iterator[Callable[[str, int, int], None]]:
    """What is told how far measuring has come, and shows it if somebody is looking."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console

    with Console(stderr=True).status("comparing") as status:
        yield lambda _, done, total: status.update(f"measuring: {done:,} of {total:,} tensors")
