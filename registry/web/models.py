"""`/` and `/models/NAME`: what there is, and what is in production since when."""

from contextlib import suppress
from datetime import UTC, datetime

from flask import Blueprint, Response, request

from registry.db.tables import Namespace, Promotion
from registry.domain.access import Permission
from registry.domain.names import ModelName, check_namespace
from registry.request import Session, actor, choice_parameter, config, cursor, next_cursor, page_limit, transaction
from registry.services import deciding, models, namespaces, pointers, policies, promotion_lists, tags, versions
from registry.services.actors import PermissionDeniedError
from registry.web import ordering
from registry.web.browser import signed_in
from registry.web.pages import render

bp = Blueprint("models", __name__)

_SUGGESTED = 200  # namespaces offered beside the filter
_AWAITED = 50  # promotions looked at for those that wait on who looks
_COLUMNS = 4  # metrics a list of versions has room for


@bp.get("/")
@signed_in(Permission.MODEL_READ)
def index() -> Response:
    """Models by namespace and name."""
    limit, after = page_limit(), cursor(str, str)
    namespace = request.args.get("namespace", "").strip()
    wanted = check_namespace(namespace) if namespace else None
    with transaction(read_only=True) as session:
        rows = models.page_of_models(session, actor(), namespace=wanted, after=after, limit=limit)
        following = next_cursor(rows, limit, lambda row: (row.namespace.folded, row.folded))
        ids = [row.id for row in rows]
        suggested: list[Namespace] = []
        with suppress(PermissionDeniedError):  # who may not list them can still type one
            suggested = namespaces.page_of_namespaces(session, actor(), after=None, limit=_SUGGESTED)
        return render(
            "models.html",
            rows=rows,
            awaited=_awaited(session) if after is None and wanted is None else [],
            now=datetime.now(UTC),
            held=pointers.stages_of(session, ids),
            latest=versions.latest(session, ids),
            stages=ordering.stages(config().stages),
            namespace=namespace,
            namespaces=[each.name for each in suggested[:_SUGGESTED]],
            is_first=after is None,
            following=following,
        )


@bp.get("/models/<model:model>")
@signed_in(Permission.MODEL_READ)
def show(model: ModelName) -> Response:
    """A model: its stages, and its versions, newest first."""
    limit, before = page_limit(), cursor(int)
    kind = choice_parameter("kind", "release", "checkpoint")
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.MODEL_READ)
        rows = versions.page_of_versions(session, row, before=before[0] if before else None, limit=limit, kind=kind)
        following = next_cursor(rows, limit, lambda version: (version.number,))
        around = versions.surroundings(session, actor(), rows)
        return render(
            "model.html",
            model=row,
            name=models.full_name(row),
            rows=rows,
            around=around,
            metrics=ordering.metric_names(around.metrics, first=row.objective_metric, limit=_COLUMNS),
            held=pointers.stages_of(session, [row.id]),
            stages=ordering.stages(models.stages_of(row, config().stages)),
            waiting=promotion_lists.waiting(session, [row.id], now=datetime.now(UTC)),
            latest=versions.latest(session, [row.id]).get(row.id),
            tags=tags.of_models(session, [row.id]).get(row.id, {}),
            kind=kind,
            is_first=before is None,
            following=following,
            now=datetime.now(UTC),
        )


def _awaited(session: Session) -> list[tuple[Promotion, ModelName]]:
    """Pending promotions that wait for the approval of who looks, by the policies that they were judged by."""
    found: list[tuple[Promotion, ModelName]] = []
    for promotion, model, policy in promotion_lists.awaiting(session, actor(), now=datetime.now(UTC), limit=_AWAITED):
        rules = policies.read(policy)
        counts = deciding.why_not_counted(actor(), model, promotion, uploader=None, policy=rules) is None
        if deciding.required(promotion, rules) and counts:
            found.append((promotion, models.full_name(model)))
    return found
