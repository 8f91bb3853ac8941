"""`/models/NAME/versions/N/diff/REF`: what changed from one version to another."""

from typing import Final

from flask import Blueprint, Response, request, url_for

from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.domain.references import parse_reference
from registry.request import (
    InvalidCursorError,
    actor,
    choice_parameter,
    cursor,
    next_cursor,
    page_limit,
    transaction,
)
from registry.services import diffs, versions
from registry.web.browser import check_own_form, signed_in
from registry.web.pages import go, render
from registry.weights import diff
from registry.weights.diff import Kind

bp = Blueprint("diffs", __name__)

_PATH = "/models/<model:model>/versions/<int:number>/diff/<path:ref>"
MODULES: Final = 400
"""Modules one page lists; the API has all."""


@bp.get(_PATH)
@signed_in(Permission.VERSION_READ)
def show(model: ModelName, number: int, ref: str) -> Response:
    """The verdict, the modules, and the tensors that are not the same, with what was measured of them."""
    limit, after = page_limit(), cursor(int, int)
    kind = choice_parameter("class", *Kind)
    reference = parse_reference(ref)
    with transaction(read_only=True) as session:
        found = diffs.find(session, actor(), model, number, reference)
        measured = diffs.measured(session, found)
        wanted = [
            (position, change)
            for position, change in enumerate(found.changes)
            if (change.kind == kind if kind else change.kind is not Kind.IDENTICAL)
        ]
        if after is not None and after[1] != len(found.changes):
            raise InvalidCursorError("More is known of this comparison by now.")
        rows = [row for row in wanted if after is None or row[0] > after[0]][: limit + 1]
        following = next_cursor(rows, limit, lambda row: (row[0], len(found.changes)))
        modules = diff.modules(found.changes, measured.distances)
        return render(
            "diff.html",
            comparison=found,
            a=versions.name_of(found.a),
            b=versions.name_of(found.b),
            counts=diff.counts(found.changes),
            modules=[module for module in modules if module.counts.keys() != {Kind.IDENTICAL}],
            module_count=len(modules),
            shown=MODULES,
            measured=measured,
            rows=[(change, measured.distances.get(diff.pair_of(change) or ("",) * 4)) for _, change in rows],
            kind=kind,
            kinds=list(Kind),
            address=url_for("web.diffs.show", model=model, number=number, ref=ref),
            is_first=after is None,
            following=following,
        )


@bp.post(_PATH)
@signed_in(Permission.VERSION_READ)
def measure(model: ModelName, number: int, ref: str) -> Response:
    """Have a worker measure how far changed tensors moved, and come back to the page."""
    check_own_form()
    reference = parse_reference(ref)
    with transaction() as session:
        diffs.request(session, diffs.find(session, actor(), model, number, reference))
    return go(request.path)
