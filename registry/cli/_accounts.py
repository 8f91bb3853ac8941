"""`login`, `logout`, `whoami`, `namespace`, `user`, `token`: who may do what."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from registry.cli import _options, _output
from registry.config import ClientConfig
from registry.domain.access import Role


@_options.command("login", "registry login http://127.0.0.1:8080", "registry login http://127.0.0.1:8080 < token.txt")
@click.argument("url")
def login(url: str) -> None:
    """Keep a registry's address and your token for it.

    The token is asked for, or read from standard input if that is not a terminal; it is tried before it is kept.
    """
    from registry.client import Client
    from registry.client._credentials import Credentials, clean_url

    config = ClientConfig.from_environment()
    address = clean_url(url)
    token = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    with Client(address, token.strip()) as client:
        actor = client.whoami()
    Credentials.read(config.credentials).remember(address, token.strip())
    _output.say(f"logged in to {address} as {actor.user}")


@_options.command("logout", "registry logout", "registry logout http://127.0.0.1:8080")
@click.argument("url", required=False)
def logout(url: str | None) -> None:
    """Forget a registry's token, by default the current one's. The token itself stays valid; see 'token revoke'."""
    from registry.client._credentials import Credentials, clean_url

    credentials = Credentials.read(ClientConfig.from_environment().credentials)
    address = clean_url(url) if url else credentials.current
    known = credentials.forget(address)
    _output.say(f"forgot the token for {address}" if known else "there was nothing to forget")


@_options.command("whoami", "registry whoami")
@_options.as_json
def whoami(*, as_json: bool) -> None:
    """Show who you are, and what your token may do."""
    with _options.connect() as client:
        actor, url = client.whoami(), client.url
    if as_json:
        _output.document(actor.model_dump(mode="json") | {"registry": url})
        return
    _output.fields(
        {
            "registry": url,
            "user": f"{actor.user} (administrator)" if actor.admin else actor.user,
            "token": actor.token,
            "may": actor.actions,
            "on": actor.models,
            "until": actor.expires_at,
        }
    )


@_options.group("namespace", "registry namespace create vision", "registry namespace grant vision ana writer")
def namespace() -> None:
    """Owners of models, and people's roles in them."""


@namespace.command("create", epilog="\b\nExample:\n  registry namespace create vision")
@click.argument("name")
@click.option("--description", default="", help="What it is for.")
def namespace_create(name: str, *, description: str) -> None:
    """Create a namespace."""
    with _options.connect() as client:
        _output.result(client.create_namespace(name, description=description).name)


@namespace.command("list", epilog="\b\nExample:\n  registry namespace list")
@_options.as_json
def namespace_list(*, as_json: bool) -> None:
    """Show the namespaces, and your role in each."""
    with _options.connect() as client:
        found = client.namespaces()
        if as_json:
            _output.documents(found)
            return
        rows = [(each.name, each.role, each.created_at, _output.first_line(each.description)) for each in found]
    _output.table(("NAMESPACE", "ROLE", "CREATED", "DESCRIPTION"), rows, shrink=("DESCRIPTION",))


@namespace.command("grants", epilog="\b\nExample:\n  registry namespace grants vision")
@click.argument("name")
@_options.as_json
def namespace_grants(name: str, *, as_json: bool) -> None:
    """Show who has which role in a namespace."""
    with _options.connect() as client:
        found = client.grants(name)
        if as_json:
            _output.documents(found)
            return
        rows = [(each.user, each.role) for each in found]
    _output.table(("USER", "ROLE"), rows)


@namespace.command("grant", epilog="\b\nExample:\n  registry namespace grant vision ana writer")
@click.argument("name")
@click.argument("user")
@click.argument("role", type=click.Choice([role.value for role in Role]))
def namespace_grant(name: str, user: str, role: Any) -> None:
    """Give a user a role in a namespace, instead of the one before."""
    with _options.connect() as client:
        client.grant(name, user, role=role)


@namespace.command("revoke", epilog="\b\nExample:\n  registry namespace revoke vision ana")
@click.argument("name")
@click.argument("user")
def namespace_revoke(name: str, user: str) -> None:
    """Take a user's role in a namespace away."""
    with _options.connect() as client:
        client.revoke(name, user)


@_options.group("user", "registry user create ana")
def user() -> None:
    """People and programs that use the registry."""


@user.command("create", epilog="\b\nExample:\n  registry user create ana")
@click.argument("name")
@click.option("--admin", is_flag=True, help="May do everything everywhere.")
def user_create(name: str, *, admin: bool) -> None:
    """Create a user, who then needs a token: 'registry token create NAME --user USER'."""
    with _options.connect() as client:
        _output.result(client.create_user(name, admin=admin).name)


@user.command("list", epilog="\b\nExample:\n  registry user list")
@_options.as_json
def user_list(*, as_json: bool) -> None:
    """Show the users."""
    with _options.connect() as client:
        found = client.users()
        if as_json:
            _output.documents(found)
            return
        rows = [
            (each.name, "admin" if each.admin else "", "disabled" if each.disabled else "", each.created_at)
            for each in found
        ]
    _output.table(("USER", "ADMIN", "STATE", "CREATED"), rows)


@user.command("disable", epilog="\b\nExample:\n  registry user disable ana")
@click.argument("name")
def user_disable(name: str) -> None:
    """Make every token of a user worthless, until enabled again."""
    with _options.connect() as client:
        client.update_user(name, disabled=True)


@user.command("enable", epilog="\b\nExample:\n  registry user enable ana")
@click.argument("name")
def user_enable(name: str) -> None:
    """Let a disabled user in again."""
    with _options.connect() as client:
        client.update_user(name, disabled=False)


@_options.group("token", "registry token create ci --action read --models 'vision/*' --days 90")
def token() -> None:
    """Secrets with which programs act for a user."""


@token.command("create", epilog="\b\nExample:\n  registry token create ci --action read --models 'vision/*' --days 90")
@click.argument("name")
@click.option("--action", "actions", multiple=True, help="What it may do: read, version:*, …; everything if left out.")
@click.option("--models", default="*", show_default=True, metavar="GLOB", help="On which models.")
@click.option("--days", type=click.IntRange(1, 3650), help="How long it is valid.")
@click.option("--user", help="For another user (administrators only).")
@_options.as_json
def token_create(
    name: str, *, actions: Sequence[str], models: str, days: int | None, user: str | None, as_json: bool
) -> None:
    """Create a token and print its secret, which is never shown again."""
    with _options.connect() as client:
        made = client.create_token(name, actions=actions or ("*",), models=models, expires_in_days=days, user=user)
    if as_json:
        _output.document(made)
        return
    _output.say("shown this once:")
    _output.result(made.token)


@token.command("list", epilog="\b\nExample:\n  registry token list")
@_options.as_json
def token_list(*, as_json: bool) -> None:
    """Show your tokens, without their secrets."""
    with _options.connect() as client:
        found = client.tokens()
        if as_json:
            _output.documents(found)
            return
        rows = [
            (each.id, each.name, each.user, each.prefix, each.actions, each.models, each.expires_at, each.last_used_at)
            for each in found
        ]
    _output.table(("ID", "NAME", "USER", "PREFIX", "MAY", "ON", "UNTIL", "USED"), rows, shrink=("NAME", "MAY"))


@token.command("revoke", epilog="\b\nExample:\n  registry token revoke 3")
@click.argument("number", metavar="ID", type=click.IntRange(1))
def token_revoke(number: int) -> None:
    """Make a token worthless, now."""
    with _options.connect() as client:
        client.revoke_token(number)
