"""Who may do what: namespaces, roles, users and tokens."""

from collections.abc import Iterator, Sequence

from registry.client._api import Api, at, checked
from registry.wire import (
    GrantIn,
    GrantOut,
    NamespaceIn,
    NamespaceOut,
    NewTokenOut,
    Role,
    TokenIn,
    TokenOut,
    UserIn,
    UserOut,
    UserPatch,
    WhoAmI,
)


class Accounts:
    """The part of a client that is about people and their rights. Every method raises what the server answers."""

    _api: Api

    def whoami(self) -> WhoAmI:
        """Who this client acts as, and what its token may do."""
        return self._api.get("/whoami", WhoAmI)

    def namespaces(self) -> Iterator[NamespaceOut]:
        """Every namespace the actor can see, with the actor's role in it."""
        return self._api.pages("/namespaces", NamespaceOut)

    def create_namespace(self, name: str, *, description: str = "") -> NamespaceOut:
        """Create a namespace."""
        body = checked(NamespaceIn, name=name, description=description)
        return self._api.send("POST", "/namespaces", body, NamespaceOut)

    def grants(self, namespace: str) -> Iterator[GrantOut]:
        """Who has which role in a namespace."""
        return self._api.pages(at("namespaces", namespace, "grants"), GrantOut)

    def grant(self, namespace: str, user: str, *, role: Role) -> GrantOut:
        """Give a user a role in a namespace, instead of the one before."""
        path = at("namespaces", namespace, "grants", user)
        return self._api.send("PUT", path, checked(GrantIn, role=role), GrantOut)

    def revoke(self, namespace: str, user: str) -> None:
        """Take a user's role in a namespace away."""
        self._api.do("DELETE", at("namespaces", namespace, "grants", user))

    def users(self) -> Iterator[UserOut]:
        """Every user."""
        return self._api.pages("/users", UserOut)

    def create_user(self, name: str, *, admin: bool = False) -> UserOut:
        """Create a user, who then needs a token (`create_token(…, user=name)`)."""
        return self._api.send("POST", "/users", checked(UserIn, name=name, admin=admin), UserOut)

    def update_user(self, name: str, *, disabled: bool | None = None, admin: bool | None = None) -> UserOut:
        """Disable or enable a user, or change the administrator flag; None leaves it as it is."""
        changes = {"disabled": disabled, "admin": admin}
        body = checked(UserPatch, **{key: value for key, value in changes.items() if value is not None})
        return self._api.send("PATCH", at("users", name), body, UserOut)

    def tokens(self) -> Iterator[TokenOut]:
        """The actor's tokens, without their secrets."""
        return self._api.pages("/tokens", TokenOut)

    def create_token(
        self,
        name: str,
        *,
        actions: Sequence[str] = ("*",),
        models: str = "*",
        expires_in_days: int | None = None,
        user: str | None = None,
    ) -> NewTokenOut:
        """Create a token; its secret is in the answer and never shown again."""
        body = checked(
            TokenIn, name=name, actions=list(actions), models=models, expires_in_days=expires_in_days, user=user
        )
        return self._api.send("POST", "/tokens", body, NewTokenOut)

    def revoke_token(self, token: int) -> None:
        """Make a token worthless, by its id."""
        self._api.do("DELETE", at("tokens", token))
