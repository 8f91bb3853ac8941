"""What `registry login` keeps: one token for each registry, and which of them is meant when none is named.

    {"current": "http://127.0.0.1:8080", "tokens": {"http://127.0.0.1:8080": "wr_…"}}

A token is only ever sent to the address it was stored for.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Self
from urllib.parse import urlsplit

from registry.client._errors import CredentialsError, ServerUnknownError, ServerUrlError
from registry.config import ClientConfig


@dataclass(slots=True)
class Credentials:
    """The file's content. Tokens stay out of `repr`."""

    path: Path
    current: str = ""
    tokens: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file; empty if there is none. Raises CredentialsError."""
        path = path.expanduser()
        try:
            document = json.loads(path.read_bytes())
            current, tokens = document["current"], document["tokens"]
        except FileNotFoundError:
            return cls(path)
        except OSError as failure:
            raise CredentialsError(f"{path} cannot be read: {failure.strerror}") from failure
        except (ValueError, TypeError, KeyError):
            raise CredentialsError(f"{path} is not what 'registry login' writes.") from None
        if not isinstance(current, str) or not isinstance(tokens, dict):
            raise CredentialsError(f"{path} is not what 'registry login' writes.")
        return cls(path, current, {str(url): str(token) for url, token in tokens.items()})

    def write(self) -> None:
        """Replace the file in one step, readable by its owner alone from the start. Raises CredentialsError."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:  # created 0600
                json.dump({"current": self.current, "tokens": self.tokens}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(self.path)
        except OSError as failure:
            raise CredentialsError(f"{self.path} cannot be written: {failure.strerror}") from failure

    def remember(self, url: str, token: str) -> None:
        """Keep a token and make its registry the current one. Raises CredentialsError."""
        self.current, self.tokens[url] = url, token
        self.write()

    def forget(self, url: str) -> bool:
        """Drop the token of a registry; False if there was none. Raises CredentialsError."""
        known = self.tokens.pop(url, None) is not None
        if self.current == url:
            self.current = ""
        if known:
            self.write()
        return known


def clean_url(url: str) -> str:
    """The one spelling of a registry's address, under which its token is kept. Raises ServerUrlError."""
    parts = urlsplit(url.strip())
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # the port is not a number
        usable = False
    if not usable or parts.query or parts.fragment:
        shown = url.strip() if "@" not in url else f"{parts.scheme}://…"
        raise ServerUrlError(f"{shown!r} is not the address of a registry.")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def find(url: str | None, token: str | None, config: ClientConfig) -> tuple[str, str]:
    """Address and token: as given, else from the environment, else from what `registry login` kept.

    Raises ServerUnknownError, ServerUrlError or CredentialsError.
    """
    named = url or config.url
    if named and (token or config.token):
        return clean_url(named), token or config.token
    kept = Credentials.read(config.credentials)
    if not named and not kept.current:
        raise ServerUnknownError("No registry is named.")
    address = clean_url(named) if named else kept.current
    return address, token or config.token or kept.tokens.get(address, "")
