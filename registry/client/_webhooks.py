"""Where events are sent, and what became of each."""

from collections.abc import Iterator, Sequence
from typing import Any

from registry.client._api import Api, at, checked
from registry.client._errors import InvalidArgumentError
from registry.wire import (
    DeliveryOut,
    DeliveryState,
    NewWebhookOut,
    ReplayIn,
    ReplayOut,
    RotateIn,
    WebhookIn,
    WebhookOut,
    WebhookPatch,
)


class Webhooks:
    """The part of a client that is about webhooks. Every method raises what the server answers."""

    _api: Api

    def webhooks(self, *, namespace: str | None = None, model: str | None = None) -> Iterator[WebhookOut]:
        """The webhooks of a namespace and its models, by default of `default`; or those of one model."""
        return self._api.pages("/webhooks", WebhookOut, namespace=namespace, model=model)

    def create_webhook(
        self,
        url: str,
        *,
        namespace: str | None = None,
        model: str | None = None,
        actions: Sequence[str] = (),
        description: str = "",
    ) -> NewWebhookOut:
        """Have the events of a namespace or a model sent to a URL, all or those named (`promotion:apply`, `version:*`).

        The secret in the answer verifies what is sent; it is never shown again.
        """
        facts = {"namespace": namespace, "model": model, "actions": list(actions), "description": description}
        return self._api.send("POST", "/webhooks", checked(WebhookIn, url=url, **facts), NewWebhookOut)

    def webhook(self, webhook: str) -> WebhookOut:
        """One webhook, by its id."""
        return self._api.get(at("webhooks", webhook), WebhookOut)

    def update_webhook(
        self,
        webhook: str,
        *,
        url: str | None = None,
        actions: Sequence[str] | None = None,
        description: str | None = None,
        enabled: bool | None = None,
    ) -> WebhookOut:
        """Change a webhook; None leaves things as they are."""
        changes: dict[str, Any] = {"url": url, "description": description, "enabled": enabled}
        if actions is not None:
            changes["actions"] = list(actions)
        body = checked(WebhookPatch, **{key: value for key, value in changes.items() if value is not None})
        return self._api.send("PATCH", at("webhooks", webhook), body, WebhookOut)

    def delete_webhook(self, webhook: str) -> None:
        """Send nothing more to it, also not what is pending."""
        self._api.do("DELETE", at("webhooks", webhook))

    def rotate_webhook(self, webhook: str, *, overlap_s: int = 86_400) -> NewWebhookOut:
        """Give it a new secret, which is in the answer. Until the overlap ends the old one verifies messages too."""
        body = checked(RotateIn, overlap_s=overlap_s)
        return self._api.send("POST", at("webhooks", webhook, "rotate"), body, NewWebhookOut)

    def test_webhook(self, webhook: str) -> DeliveryOut:
        """Send it a `webhook:test` event; `delivery` tells what came of it."""
        return self._api.send("POST", at("webhooks", webhook, "test"), None, DeliveryOut)

    def deliveries(
        self, webhook: str, *, state: DeliveryState | None = None, limit: int | None = None
    ) -> Iterator[DeliveryOut]:
        """What was sent to it or waits to be, with every attempt; the newest event first."""
        return self._api.pages(at("webhooks", webhook, "deliveries"), DeliveryOut, state=state, limit=limit)

    def delivery(self, webhook: str, delivery: str) -> DeliveryOut:
        """One delivery, by its id."""
        return self._api.get(at("webhooks", webhook, "deliveries", delivery), DeliveryOut)

    def replay(self, webhook: str, delivery: str | None = None, *, dead: bool = False) -> int:
        """Send one delivery again, or all that are dead. Gives how many. Raises InvalidArgumentError."""
        if (delivery is None) != dead:
            raise InvalidArgumentError("Name a delivery, or say dead=True for all that are.")
        body = checked(ReplayIn, delivery=delivery)
        return self._api.send("POST", at("webhooks", webhook, "replay"), body, ReplayOut).replayed
