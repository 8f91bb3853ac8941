"""`promote`, `rollback`, `demote`, `history`: which version a stage means."""

from typing import TYPE_CHECKING

import click

from registry.cli import _options, _output

if TYPE_CHECKING:
    from registry.wire import PromotionOut

_EXPECT = click.option(
    "--expect",
    type=click.IntRange(0),
    metavar="N",
    help="The version you believe is there (0 for none); refuse if it is another.",
)


@_options.command(
    "promote", "registry promote vision/yolo11n:7 --to production --expect 6 -m 'better on small objects'"
)
@click.argument("ref")
@click.option("--to", "stage", required=True, metavar="STAGE", help="The stage, such as production.")
@_EXPECT
@_options.message
@_options.as_json
def promote(ref: str, *, stage: str, expect: int | None, message: str, as_json: bool) -> None:
    """Put a version on a stage."""
    with _options.connect() as client:
        _show(client.promote(ref, to=stage, expect=expect, message=message), as_json=as_json)


@_options.command("rollback", "registry rollback vision/yolo11n production -m 'false alarms at night'")
@click.argument("name")
@click.argument("stage")
@click.option("--to", "number", type=click.IntRange(1), metavar="N", help="An earlier holder, instead of the last one.")
@_EXPECT
@_options.message
@_options.as_json
def rollback(name: str, stage: str, *, number: int | None, expect: int | None, message: str, as_json: bool) -> None:
    """Give a stage back to the version that held it before."""
    with _options.connect() as client:
        _show(client.rollback(name, stage, to=number, expect=expect, message=message), as_json=as_json)


@_options.command("demote", "registry demote vision/yolo11n staging")
@click.argument("name")
@click.argument("stage")
@_EXPECT
@_options.message
@_options.as_json
def demote(name: str, stage: str, *, expect: int | None, message: str, as_json: bool) -> None:
    """Empty a stage."""
    with _options.connect() as client:
        _show(client.demote(name, stage, expect=expect, message=message), as_json=as_json)


@_options.command("history", "registry history vision/yolo11n production")
@click.argument("name")
@click.argument("stage")
@_options.limit
@_options.as_json
def history(name: str, stage: str, *, limit: int | None, as_json: bool) -> None:
    """Show who held a stage, newest first."""
    with _options.connect() as client:
        found = client.history(name, stage, limit=limit)
        if as_json:
            _output.documents(found)
            return
        rows = [
            (
                each.seq,
                each.kind,
                each.version or "none",
                each.previous or "none",
                each.at,
                each.by,
                _output.first_line(each.message),
            )
            for each in found
        ]
    _output.table(("SEQ", "KIND", "VERSION", "PREVIOUS", "AT", "BY", "MESSAGE"), rows, shrink=("MESSAGE",))


def _show(promotion: "PromotionOut", *, as_json: bool) -> None:
    if as_json:
        _output.document(promotion)
        return
    before = f"was {promotion.previous}" if promotion.previous else "was empty"
    now = f"{promotion.model}:{promotion.version}" if promotion.version else "none"
    _output.result(f"{promotion.model}@{promotion.stage} = {now} ({before})")
