"""`promote`, `rollback`, `demote`, `history`, `approve`, …: which version a stage means, and who decides."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from registry.cli import _options, _output
from registry.domain.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.wire import GateOut, HistoryItem, PreviewOut, PromotionOut

_EXPECT = click.option(
    "--expect",
    type=click.IntRange(0),
    metavar="N",
    help="The version you believe is there (0 for none); refuse if it is another.",
)
_MARKS = {True: "passed", False: "FAILED", None: "waits"}


@_options.command(
    "promote",
    "registry promote vision/yolo11n:7 --to production --expect 6 -m 'better on small objects'",
    "registry promote vision/yolo11n:7 --to production --dry-run",
)
@click.argument("ref")
@click.option("--to", "stage", required=True, metavar="STAGE", help="The stage, such as production.")
@_EXPECT
@_options.message
@click.option("--dry-run", is_flag=True, help="Say gate by gate what would become of it; change nothing.")
@click.option("--force", is_flag=True, help="Skip gates and approvals (admins, with -m WHY); shown for ever.")
@_options.as_json
def promote(
    ref: str, *, stage: str, expect: int | None, message: str, dry_run: bool, force: bool, as_json: bool
) -> int | None:
    """Put a version on a stage, if its gates and approvers agree."""
    with _options.connect() as client:
        if dry_run:
            return _show_preview(client.preview(ref, to=stage), as_json=as_json)
        with _gates_shown():
            promotion = client.promote(ref, to=stage, expect=expect, message=message, force=force)
    _show(promotion, as_json=as_json)
    return None


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


@_options.command(
    "history",
    "registry history vision/yolo11n production",
    "registry history vision/yolo11n production --version 7",
    "registry history vision/yolo11n production --since 2026-11-01 --until 2026-11-30",
)
@click.argument("name")
@click.argument("stage")
@click.option("--version", type=click.IntRange(1), metavar="N", help="Only its terms, and how long they were in all.")
@_options.since
@_options.until
@_options.limit
@_options.as_json
def history(
    name: str,
    stage: str,
    *,
    version: int | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Show who held a stage, newest first: when, for how long, who decided and why."""
    with _options.connect() as client:
        found = list(client.history(name, stage, limit=limit, version=version, since=since, until=until))
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
            _lasted(each),
            each.by,
            ", ".join(each.approved_by),
            _output.first_line(each.message),
        )
        for each in found
    ]
    columns = ("SEQ", "KIND", "VERSION", "PREVIOUS", "AT", "FOR", "BY", "APPROVED BY", "MESSAGE")
    _output.table(columns, rows, shrink=("MESSAGE",))
    if version is not None:
        _output.say(_held_in_all(found, version, stage))


@_options.command("promotions", "registry promotions vision/yolo11n production --state pending")
@click.argument("name")
@click.argument("stage")
@click.option("--state", metavar="STATE", help="Only those: pending, applied, rejected, cancelled, expired or failed.")
@_options.limit
@_options.as_json
def promotions(name: str, stage: str, *, state: str | None, limit: int | None, as_json: bool) -> None:
    """Show what was asked of a stage, also what is pending, rejected or failed."""
    with _options.connect() as client:
        found = client.promotions(name, stage, state=state, limit=limit)
        if as_json:
            _output.documents(found)
            return
        rows = [
            (
                each.id,
                each.kind,
                each.state,
                each.version or "none",
                each.requested_at,
                each.by,
                each.missing_approvals or "",
                _output.first_line(_why(each)),
            )
            for each in found
        ]
    columns = ("ID", "KIND", "STATE", "VERSION", "ASKED AT", "BY", "MISSING", "WHY")
    _output.table(columns, rows, shrink=("WHY",))


def _decision(name: str, verb: str, example: str) -> Any:
    @_options.command(name, example)
    @click.argument("promotion_id", metavar="ID")
    @_options.message
    @_options.as_json
    def decide(promotion_id: str, *, message: str, as_json: bool) -> None:
        with _options.connect() as client, _gates_shown():
            _show(getattr(client, name)(promotion_id, message=message), as_json=as_json)

    decide.help = verb
    return decide


approve = _decision(
    "approve", "Agree to a pending promotion; the last approval applies it.", "registry approve 3f2c… -m 'looks good'"
)
reject = _decision("reject", "Refuse a pending promotion.", "registry reject 3f2c… -m 'fails on night images'")
cancel = _decision("cancel", "Take back a pending promotion that you asked for.", "registry cancel 3f2c…")


def _show(promotion: "PromotionOut", *, as_json: bool) -> None:
    if as_json:
        _output.document(promotion)
        return
    name = f"{promotion.model}@{promotion.stage}"
    wanted = f"{promotion.model}:{promotion.version}" if promotion.version else "none"
    if promotion.state == "applied":
        before = f"was {promotion.previous}" if promotion.previous else "was empty"
        _output.result(f"{name} = {wanted} ({before})")
        return
    _show_gates(promotion.gates)
    if promotion.state == "pending" and promotion.missing_approvals:
        _output.say(f"{promotion.missing_approvals} approvals are missing: 'registry approve {promotion.id}'")
    _output.result(f"{name} <- {wanted} {promotion.state} ({promotion.id})")


def _show_preview(preview: "PreviewOut", *, as_json: bool) -> int:
    """The exit code is 0 if it could be promoted now."""
    could = preview.outcome in ("applied", "pending")
    if as_json:
        _output.document(preview)
        return 0 if could else 1
    _show_gates(preview.gates)
    if preview.freeze is not None:
        _output.say(f"frozen: {preview.freeze}")
    if preview.required_approvals:
        _output.say(f"{preview.required_approvals} approvals would be needed")
    if preview.consumers:
        _output.say(f"{preview.consumers} consumers follow {preview.model}@{preview.stage}")
    _output.result(f"{preview.model}@{preview.stage} <- {preview.model}:{preview.version} would be {preview.outcome}")
    return 0 if could else 1


@contextmanager
def _gates_shown() -> Iterator[None]:
    """Say what each gate said before it is said that they failed."""
    try:
        yield
    except RegistryError as error:
        _show_gates(error.details.get("gates", ()))
        raise


def _show_gates(gates: "Sequence[GateOut | dict[str, Any]]") -> None:
    for gate in gates:
        known = gate if isinstance(gate, dict) else gate.model_dump()
        _output.say(f"{_MARKS[known['passed']]}  {known['kind']}: {known['reason']}")


def _why(promotion: "PromotionOut") -> str:
    """The gate it failed by, else what the one who asked wrote."""
    failed = next((gate.reason for gate in promotion.gates if gate.passed is False), None)
    return failed or promotion.message


def _lasted(item: "HistoryItem") -> str:
    """How long it held the stage."""
    return _duration(_seconds(item)) if item.until is not None else f"{_duration(_seconds(item))} until now"


def _held_in_all(terms: "Sequence[HistoryItem]", version: int, stage: str) -> str:
    if not terms:
        return f"{version} has never held {stage}"
    count = "once" if len(terms) == 1 else f"{len(terms)} times"
    now = ", and holds it now" if terms[0].until is None else ""
    return f"{version} held {stage} for {_duration(sum(map(_seconds, terms)))} in all, {count}{now}"


def _seconds(item: "HistoryItem") -> float:
    until = item.until if item.until is not None else datetime.now(item.at.tzinfo)
    return max(0.0, (until - item.at).total_seconds())


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
