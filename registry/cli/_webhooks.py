"""`webhook`: where events are sent, and what became of each."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from registry.cli import _options, _output

if TYPE_CHECKING:
    from registry.client import Client
    from registry.wire import DeliveryOut, NewWebhookOut, WebhookOut

_PATIENCE_S = 15.0
_ACTIONS = click.option(
    "--action",
    "actions",
    multiple=True,
    metavar="ACTION",
    help="Which events: promotion:apply, version:*, …; all if left out.",
)
_ID = click.argument("webhook_id", metavar="ID")


@_options.group("webhook", "registry webhook create https://hooks.example.com/models --model vision/yolo11n")
def webhook() -> None:
    """Addresses to which events are sent."""


@webhook.command(
    "create",
    epilog="\b\nExample:\n  registry webhook create https://hooks.example.com/models --namespace vision "
    "--action promotion:apply",
)
@click.argument("url")
@click.option("--namespace", help="Whose events are sent.")
@click.option("--model", help="Whose events are sent, instead of a whole namespace's.")
@_ACTIONS
@click.option("--description", default="", help="What it is for.")
@_options.as_json
def webhook_create(
    url: str, *, namespace: str | None, model: str | None, actions: Sequence[str], description: str, as_json: bool
) -> None:
    """Have events sent to a URL, and print the secret that verifies them, which is never shown again."""
    if (namespace is None) == (model is None):
        raise click.UsageError("give either --namespace or --model")
    with _options.connect() as client:
        made = client.create_webhook(url, namespace=namespace, model=model, actions=actions, description=description)
    _show_secret(made, as_json=as_json)


@webhook.command("list", epilog="\b\nExample:\n  registry webhook list --namespace vision")
@click.option("--namespace", help="Whose, with those of its models; 'default' if left out.")
@click.option("--model", help="Only those of this model.")
@_options.as_json
def webhook_list(*, namespace: str | None, model: str | None, as_json: bool) -> None:
    """Show the webhooks."""
    with _options.connect() as client:
        found = client.webhooks(namespace=namespace, model=model)
        if as_json:
            _output.documents(found)
            return
        rows = [
            (
                each.id,
                each.model or each.namespace,
                each.url,
                each.actions or "all",
                "" if each.enabled else "disabled",
                each.pending,
                each.dead,
            )
            for each in found
        ]
    _output.table(("ID", "OF", "URL", "ACTIONS", "STATE", "PENDING", "DEAD"), rows, shrink=("URL", "ACTIONS"))


@webhook.command("show", epilog="\b\nExample:\n  registry webhook show 5f0c…")
@_ID
@_options.as_json
def webhook_show(webhook_id: str, *, as_json: bool) -> None:
    """Show a webhook."""
    with _options.connect() as client:
        _show(client.webhook(webhook_id), as_json=as_json)


@webhook.command("update", epilog="\b\nExample:\n  registry webhook update 5f0c… --enable")
@_ID
@click.option("--url", help="Send to another address.")
@_ACTIONS
@click.option("--all-actions", is_flag=True, help="Send all events.")
@click.option("--description", help="What it is for.")
@click.option("--enable/--disable", "enabled", default=None, help="Send; or not, and give up what is pending.")
@_options.as_json
def webhook_update(
    webhook_id: str,
    *,
    url: str | None,
    actions: Sequence[str],
    all_actions: bool,
    description: str | None,
    enabled: bool | None,
    as_json: bool,
) -> None:
    """Change a webhook; what is left out stays."""
    if actions and all_actions:
        raise click.UsageError("give either --action or --all-actions")
    wanted = actions if actions or all_actions else None
    with _options.connect() as client:
        changed = client.update_webhook(webhook_id, url=url, actions=wanted, description=description, enabled=enabled)
        _show(changed, as_json=as_json)


@webhook.command("test", epilog="\b\nExample:\n  registry webhook test 5f0c…")
@_ID
@_options.as_json
def webhook_test(webhook_id: str, *, as_json: bool) -> int:
    """Send a test event and say what came of the first attempt; exit code 1 if it did not arrive."""
    with _options.connect() as client:
        delivery = _after_one_attempt(client, webhook_id, client.test_webhook(webhook_id))
    if as_json:
        _output.document(delivery)
    else:
        _output.result(_last(delivery) or "no attempt yet: does a worker run?")
    return 0 if delivery.state == "delivered" else 1


@webhook.command("deliveries", epilog="\b\nExample:\n  registry webhook deliveries 5f0c… --state dead")
@_ID
@click.option("--state", type=click.Choice(["pending", "delivered", "dead"]), help="Only those in this state.")
@_options.limit
@_options.as_json
def webhook_deliveries(webhook_id: str, *, state: Any, limit: int | None, as_json: bool) -> None:
    """Show what was sent, or waits to be, the newest event first."""
    with _options.connect() as client:
        found = client.deliveries(webhook_id, state=state, limit=limit)
        if as_json:
            _output.documents(found)
            return
        rows = [
            (
                each.id,
                each.seq,
                each.action,
                each.subject,
                each.state,
                len(each.attempts),
                _last(each),
                each.next_attempt_at,
            )
            for each in found
        ]
    columns = ("ID", "SEQ", "ACTION", "SUBJECT", "STATE", "ATTEMPTS", "LAST", "NEXT")
    _output.table(columns, rows, shrink=("LAST", "SUBJECT"))


@webhook.command("replay", epilog="\b\nExample:\n  registry webhook replay 5f0c… --dead")
@_ID
@click.argument("delivery", required=False)
@click.option("--dead", is_flag=True, help="All that were given up.")
def webhook_replay(webhook_id: str, delivery: str | None, *, dead: bool) -> None:
    """Send a delivery again, or all dead ones."""
    if (delivery is None) != dead:
        raise click.UsageError("give either a delivery or --dead")
    with _options.connect() as client:
        _output.say(f"sent again: {client.replay(webhook_id, delivery, dead=dead)}")


@webhook.command("rotate", epilog="\b\nExample:\n  registry webhook rotate 5f0c… --overlap 3600")
@_ID
@click.option(
    "--overlap",
    type=click.IntRange(0, 7 * 86_400),
    default=86_400,
    show_default=True,
    metavar="SECONDS",
    help="Sign with the old secret too for so long; 0 if it leaked.",
)
@_options.as_json
def webhook_rotate(webhook_id: str, *, overlap: int, as_json: bool) -> None:
    """Give a webhook a new secret and print it; it is never shown again."""
    with _options.connect() as client:
        made = client.rotate_webhook(webhook_id, overlap_s=overlap)
    _show_secret(made, as_json=as_json)


@webhook.command("delete", epilog="\b\nExample:\n  registry webhook delete 5f0c…")
@_ID
def webhook_delete(webhook_id: str) -> None:
    """Send nothing more, also not what is pending."""
    with _options.connect() as client:
        client.delete_webhook(webhook_id)


def _show(found: "WebhookOut", *, as_json: bool) -> None:
    if as_json:
        _output.document(found)
        return
    _output.fields(
        {
            "id": found.id,
            "of": found.model or found.namespace,
            "url": found.url,
            "actions": found.actions or "all",
            "description": found.description,
            "state": "enabled" if found.enabled else "disabled",
            "created": found.created_at,
            "by": found.by,
            "old secret": found.old_secret_until,
            "pending": found.pending,
            "dead": found.dead,
        }
    )


def _show_secret(made: "NewWebhookOut", *, as_json: bool) -> None:
    if as_json:
        _output.document(made)
        return
    _output.say(f"webhook {made.id}; its secret is shown this once:")
    _output.result(made.secret)


def _after_one_attempt(client: "Client", webhook_id: str, delivery: "DeliveryOut") -> "DeliveryOut":
    """The delivery once an attempt has ended, or as it is when patience does."""
    end = time.monotonic() + _PATIENCE_S
    while delivery.state == "pending" and time.monotonic() < end:
        if delivery.attempts and delivery.attempts[-1].latency_ms:
            break
        time.sleep(0.3)
        delivery = client.delivery(webhook_id, delivery.id)
    return delivery


def _last(delivery: "DeliveryOut") -> str:
    if not delivery.attempts:
        return ""
    last = delivery.attempts[-1]
    return f"{last.status or last.error} in {last.latency_ms} ms"
