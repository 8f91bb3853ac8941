"""Which version a stage means, what it takes to change that, and who decides."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from registry.client._api import Api, at, checked
from registry.domain import names
from registry.wire import (
    DecisionIn,
    HistoryItem,
    Page,
    PolicyDocument,
    PolicyOut,
    PreviewOut,
    PromotionIn,
    PromotionOut,
    RollbackIn,
    StageChange,
    StageHolder,
    StagesIn,
    StagesOut,
)

if TYPE_CHECKING:
    from registry.client._types import Ref


class Promotions:
    """The part of a client that is about stages. Every method raises what the server answers.

    A promotion that a gate refuses raises GATES_FAILED, whose `details` hold its `id` and `gates`; one that waits for
    approvals or evidence comes back with the state `pending`.
    """

    _api: Api

    def _locate(self, ref: "Ref") -> tuple[str, int]:
        raise NotImplementedError

    def stages(self, name: str) -> Iterator[StageHolder]:
        """The stages of a model and who holds them."""
        return self._api.pages(_model(name, "stages"), StageHolder)

    def stage(self, name: str, stage: str, *, when: datetime | None = None) -> StageHolder:
        """Who holds a stage now, or held it at a time."""
        return self._api.get(_stage(name, stage), StageHolder, at=_iso(when))

    def name_stages(self, name: str, stages: list[str] | None) -> StagesOut:
        """Name the stages of a model in the order a version climbs; None for its namespace's."""
        return self._api.send("PUT", _model(name, "stages"), checked(StagesIn, stages=stages), StagesOut)

    def promote(
        self, ref: "Ref", *, to: str, expect: int | None = None, message: str = "", force: bool = False
    ) -> PromotionOut:
        """Ask that a stage mean this version. `expect` is the holder you saw (0 for none): another one refuses (409).

        `force` skips gates and approvals; it takes an admin and a message, and shows in the history for ever.
        """
        model, number = self._locate(ref)
        body = checked(PromotionIn, version=number, expect=expect, message=message, force=force)
        return self._api.send("POST", _stage(model, to, "promotions"), body, PromotionOut)

    def preview(self, ref: "Ref", *, to: str) -> PreviewOut:
        """What would become of promoting this version now, gate by gate. Nothing changes."""
        model, number = self._locate(ref)
        body = checked(PromotionIn, version=number)
        return self._api.send("POST", _stage(model, to, "promotions"), body, PreviewOut, repeatable=True, dry_run=1)

    def demote(self, name: str, stage: str, *, expect: int | None = None, message: str = "") -> PromotionOut:
        """Empty a stage."""
        body = checked(PromotionIn, version=None, expect=expect, message=message)
        return self._api.send("POST", _stage(name, stage, "promotions"), body, PromotionOut)

    def rollback(
        self, name: str, stage: str, *, to: int | None = None, expect: int | None = None, message: str = ""
    ) -> PromotionOut:
        """Give a stage back to its holder before, or to version `to`, which must have held it."""
        body = checked(RollbackIn, to=to, expect=expect, message=message)
        return self._api.send("POST", _stage(name, stage, "rollback"), body, PromotionOut)

    def history(
        self,
        name: str,
        stage: str,
        *,
        limit: int | None = None,
        version: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[HistoryItem]:
        """Who held a stage, newest first: all of it, the terms of one version, or what was decided in a time."""
        query = {"version": version, "since": _iso(since), "until": _iso(until)}
        return self._api.pages(_stage(name, stage, "history"), HistoryItem, limit=limit, **query)

    def changes(self, name: str, *, since: datetime, until: datetime | None = None) -> Iterator[StageChange]:
        """Who held each stage of a model at two times, and how often it moved in between."""
        items = self._api.get(
            _model(name, "history"), Page[StageChange], since=_iso(since), until=_iso(until)
        ).items  # fmt: skip
        return iter(items)

    def promotions(
        self, name: str, stage: str, *, state: str | None = None, limit: int | None = None
    ) -> Iterator[PromotionOut]:
        """Whatever was asked of a stage, also what is pending, rejected or failed; the last asked for first."""
        return self._api.pages(_stage(name, stage, "promotions"), PromotionOut, limit=limit, state=state)

    def promotion(self, promotion_id: str) -> PromotionOut:
        """A promotion with its gates and approvals."""
        return self._api.get(at("promotions", promotion_id), PromotionOut)

    def approve(self, promotion_id: str, *, message: str = "", evidence: str | None = None) -> PromotionOut:
        """Agree to a pending promotion. With the `evidence` you saw, a change since refuses (409)."""
        return self._decide(promotion_id, "approve", message, evidence)

    def reject(self, promotion_id: str, *, message: str = "") -> PromotionOut:
        """Refuse a pending promotion."""
        return self._decide(promotion_id, "reject", message)

    def cancel(self, promotion_id: str, *, message: str = "") -> PromotionOut:
        """Take back a pending promotion that you asked for."""
        return self._decide(promotion_id, "cancel", message)

    def policy(self, name: str, stage: str) -> PolicyOut:
        """What a stage asks of a promotion: the model's own policy, else its namespace's."""
        return self._api.get(_stage(name, stage, "policy"), PolicyOut)

    def set_policy(self, name: str, stage: str, policy: Mapping[str, Any] | None, *, message: str = "") -> PolicyOut:
        """Give a stage of the model a policy; None goes back to its namespace's."""
        body = PolicyDocument(dict(policy) if policy is not None else None)
        return self._api.send("PUT", _stage(name, stage, "policy"), body, PolicyOut, message=message or None)

    def namespace_stages(self, namespace: str) -> StagesOut:
        """The stages of models that name none themselves."""
        return self._api.get(at("namespaces", namespace, "stages"), StagesOut)

    def name_namespace_stages(self, namespace: str, stages: list[str] | None) -> StagesOut:
        """Name them, in the order a version climbs; None for those of the server."""
        return self._api.send("PUT", at("namespaces", namespace, "stages"), checked(StagesIn, stages=stages), StagesOut)

    def namespace_policy(self, namespace: str, stage: str) -> PolicyOut:
        """What a stage asks in models that have no policy of their own."""
        return self._api.get(at("namespaces", namespace, "stages", stage, "policy"), PolicyOut)

    def set_namespace_policy(
        self, namespace: str, stage: str, policy: Mapping[str, Any] | None, *, message: str = ""
    ) -> PolicyOut:
        """Set it; None asks for nothing."""
        body = PolicyDocument(dict(policy) if policy is not None else None)
        path = at("namespaces", namespace, "stages", stage, "policy")
        return self._api.send("PUT", path, body, PolicyOut, message=message or None)

    def _decide(self, promotion_id: str, decision: str, message: str, evidence: str | None = None) -> PromotionOut:
        body = checked(DecisionIn, comment=message, evidence=evidence)
        return self._api.send("POST", at("promotions", promotion_id, decision), body, PromotionOut)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone().isoformat()


def _model(name: str, *more: str) -> str:
    return at("models", names.parse_model(name), *more)


def _stage(name: str, stage: str, *more: str) -> str:
    return _model(name, "stages", names.check_pointer(stage), *more)
