"""`…/policy` and `…/stages`: what a stage asks of a promotion, and which stages there are."""

from typing import Any

from flask import Blueprint, Response, request
from pydantic import RootModel

from registry import wire
from registry.api.operation import IF_MATCH, PAGED, Parameter, operation
from registry.api.stages import PreconditionFailedError
from registry.db.session import now
from registry.db.tables import Policy
from registry.domain import policy as rules
from registry.domain.access import Permission
from registry.domain.names import ModelName
from registry.request import (
    InvalidCursorError,
    InvalidParameterError,
    actor,
    answer,
    body,
    config,
    cursor,
    next_cursor,
    page,
    page_limit,
    public,
    requires,
    transaction,
)
from registry.services import models, namespaces, pointers, policies, stages
from registry.services.policies import Change

bp = Blueprint("policies", __name__)

_OF_MODEL = "/models/<model:model>/stages/<stage>/policy"
_OF_NAMESPACE = "/namespaces/<part:namespace>/stages/<stage>/policy"
_LONGEST = 10_000
_MESSAGE = Parameter("message", "Why it changes.", {"type": "string", "maxLength": _LONGEST})


class Document(RootModel[dict[str, Any]]):
    """Any JSON object."""


@bp.get("/policy-schema")
@public
@operation("The JSON Schema of policies", answers={200: Document})
def schema() -> Response:
    """With every kind of gate there is and its parameters; open to all, as the API's own description is."""
    return answer(Document(rules.schema()))


@bp.get(_OF_MODEL)
@requires(Permission.POLICY_READ)
@operation("Show what a stage asks of a promotion", answers={200: wire.PolicyOut})
def show(model: ModelName, stage: str) -> Response:
    """The model's own policy, else its namespace's; `scope` says which."""
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.POLICY_READ)
        pointers.check_stage(row, stage, config().stages)
        policy = policies.in_force(session, row, stage)
        return answer(_rendered(stage, policy), etag=_etag(policy))


@bp.put(_OF_MODEL)
@requires(Permission.POLICY_SET)
@operation(
    "Set what a stage asks of a promotion",
    body=wire.PolicyDocument,
    answers={200: wire.PolicyOut},
    query=(_MESSAGE,),
    headers=(IF_MATCH,),
    refuses=(412,),
)
def put(model: ModelName, stage: str) -> Response:
    """A new revision; pending promotions are judged by it from now on. Answers with what counts now."""
    change = _change()
    with transaction() as session:
        row = models.find(session, actor(), model, Permission.POLICY_SET)
        models.lock(session, row)
        pointers.check_stage(row, stage, config().stages)
        _check_unchanged(policies.in_force(session, row, stage))
        policies.set_for_model(session, actor(), row, stage, change, stages=config().stages, now=now(session))
        return answer(_rendered(stage, policies.in_force(session, row, stage)))


@bp.get(f"{_OF_MODEL}/revisions")
@requires(Permission.POLICY_READ)
@operation("List the revisions of a model's own policy", answers={200: wire.Page[wire.PolicyOut]}, query=PAGED)
def index(model: ModelName, stage: str) -> Response:
    """One page, newest first."""
    limit, before = page_limit(), cursor(int)
    if before is not None and not 0 < before[0] < 2**31:
        raise InvalidCursorError("The cursor is not valid.")
    with transaction(read_only=True) as session:
        row = models.find(session, actor(), model, Permission.POLICY_READ)
        pointers.check_stage(row, stage, config().stages)
        rows = policies.revisions(session, row, stage, before=before[0] if before else None, limit=limit)
        following = next_cursor(rows, limit, lambda each: (each.revision,))
        return page(wire.Page[wire.PolicyOut](items=[_rendered(stage, each) for each in rows], next=following))


@bp.get(_OF_NAMESPACE)
@requires(Permission.NAMESPACE_READ)
@operation("Show what a stage asks in a whole namespace", answers={200: wire.PolicyOut})
def show_for_namespace(namespace: str, stage: str) -> Response:
    """What counts for its models that have no policy of their own."""
    with transaction(read_only=True) as session:
        row = namespaces.find(session, actor(), namespace)
        policy = policies.of_namespace(session, row, stage, stages=config().stages)
        return answer(_rendered(stage, policy), etag=_etag(policy))


@bp.put(_OF_NAMESPACE)
@requires(Permission.POLICY_SET)
@operation(
    "Set what a stage asks in a whole namespace",
    body=wire.PolicyDocument,
    answers={200: wire.PolicyOut},
    query=(_MESSAGE,),
    headers=(IF_MATCH,),
    refuses=(412,),
)
def put_for_namespace(namespace: str, stage: str) -> Response:
    """A new revision for every model that has no policy of its own."""
    change = _change()
    with transaction() as session:
        row = namespaces.find(session, actor(), namespace)
        policies.lock_namespace(session, row)
        _check_unchanged(policies.of_namespace(session, row, stage, stages=config().stages))
        policies.set_for_namespace(session, actor(), row, stage, change, stages=config().stages, now=now(session))
        policy = policies.of_namespace(session, row, stage, stages=config().stages)
        return answer(_rendered(stage, policy))


@bp.get("/namespaces/<part:namespace>/stages")
@requires(Permission.NAMESPACE_READ)
@operation("List the stages of a namespace", answers={200: wire.StagesOut})
def show_stages(namespace: str) -> Response:
    """In the order a version climbs."""
    with transaction(read_only=True) as session:
        row = namespaces.find(session, actor(), namespace)
        scope = "namespace" if row.stages else "server"
        return answer(_named(row.stages or config().stages, scope))


@bp.put("/namespaces/<part:namespace>/stages")
@requires(Permission.POLICY_SET)
@operation("Name the stages of a namespace", body=wire.StagesIn, answers={200: wire.StagesOut})
def put_stages(namespace: str) -> Response:
    """For all its models that name none themselves."""
    asked = body(wire.StagesIn)
    with transaction() as session:
        row = namespaces.find(session, actor(), namespace)
        found = stages.set_for_namespace(session, actor(), row, asked.stages, stages=config().stages, now=now(session))
        return answer(_named(found, "namespace" if row.stages else "server"))


@bp.put("/models/<model:model>/stages")
@requires(Permission.POLICY_SET)
@operation("Name the stages of one model", body=wire.StagesIn, answers={200: wire.StagesOut})
def put_stages_of_model(model: ModelName) -> Response:
    """In place of its namespace's."""
    asked = body(wire.StagesIn)
    with transaction() as session:
        row = models.find(session, actor(), model, Permission.POLICY_SET)
        found = stages.set_for_model(session, actor(), row, asked.stages, stages=config().stages, now=now(session))
        scope = "model" if row.stages else "namespace" if row.namespace.stages else "server"
        return answer(_named(found, scope))


def _change() -> Change:
    message = request.args.get("message", "")
    if len(message) > _LONGEST:
        raise InvalidParameterError(f"message is text of at most {_LONGEST} characters.")
    return Change(body(wire.PolicyDocument).root, message)


def _check_unchanged(policy: Policy | None) -> None:
    present = _etag(policy)
    if request.if_match and not request.if_match.contains(present):
        remedy = "Read the policy again, and repeat the request with its present ETag."
        raise PreconditionFailedError("The policy has changed since it was read.", remedy=remedy, etag=present)


def _etag(policy: Policy | None) -> str:
    return f"policy-{policy.id}" if policy is not None else "policy-0"


def _rendered(stage: str, policy: Policy | None) -> wire.PolicyOut:
    if policy is None:
        return wire.PolicyOut(stage=stage, scope=None, revision=0, policy={}, message="", by=None, at=None)
    return wire.PolicyOut(
        stage=stage,
        scope="namespace" if policy.model_id is None else "model",
        revision=policy.revision,
        policy=policy.document,
        message=policy.message,
        by=policy.created_by,
        at=policy.created_at,
    )


def _named(names: Any, scope: str) -> wire.StagesOut:
    return wire.StagesOut.model_validate({"stages": list(names), "scope": scope})
