"""Requests to `/api/v1`: one function sends, waits and retries; answers become shapes or errors.

The token goes to the registry's address and nowhere else: redirects are not followed. It is in no log, message or repr.
"""

import random
import ssl
import sys
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
from pydantic import BaseModel, ValidationError

from registry.client._credentials import clean_url
from registry.client._errors import (
    InvalidArgumentError,
    NotARegistryError,
    ServerMovedError,
    ServerUnreachableError,
    from_problem,
)
from registry.domain.tokens import MalformedTokenError
from registry.wire import Page

Shape = TypeVar("Shape", bound=BaseModel)

PREFIX = "/api/v1"
PAGE = 1_000
CONNECT_TIMEOUT, ANSWER_TIMEOUT, LONG_TIMEOUT = 10.0, 60.0, 900.0

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 4.0
# Seconds of waiting in all. A server that has answered this process before is given the time of a restart.
_PATIENCE_UNSEEN, _PATIENCE, _PATIENCE_BUSY = 2.0, 15.0, 60.0
_ATTEMPTS_BUSY = 5
_BUSY = frozenset({429, 503})
_GATEWAY = frozenset({502, 504})
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Api:
    """The API of one registry, as one actor. Safe to share between threads."""

    def __init__(self, url: str, token: str) -> None:
        """Nothing is sent yet. Raises ServerUrlError, or MalformedTokenError for what cannot be in a header."""
        self.url = clean_url(url)
        if not token.isascii() or not token.isprintable() or " " in token:
            raise MalformedTokenError("The token is malformed.")
        headers = {
            "Accept": "application/json",
            "User-Agent": f"weight-registry python/{sys.version_info.major}.{sys.version_info.minor}",
        }
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._has_answered = False
        self._http = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT),
            follow_redirects=False,
            # The machine's own trust, as for the transfers; reading it takes time, so only where there is TLS.
            verify=ssl.create_default_context() if self.url.startswith("https:") else False,
            # A proxy for the outside world has no business between two processes of one machine.
            trust_env=urlsplit(self.url).hostname not in _LOOPBACK,
        )
        weakref.finalize(self, self._http.close)  # a client that is dropped leaves no open sockets

    def __repr__(self) -> str:
        return f"Api({self.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, shape: type[Shape], **query: Any) -> Shape:
        """One thing. Raises what the server answers."""
        return self._shaped(self._send("GET", path, query), shape)

    def get_if_changed(self, path: str, shape: type[Shape], etag: str, **query: Any) -> tuple[Shape | None, str]:
        """One thing and its ETag, or None while it is still what had this ETag. Raises what the server answers."""
        response = self._send("GET", path, query, headers={"If-None-Match": etag} if etag else {})
        if response.status_code == 304:
            return None, etag
        return self._shaped(response, shape), response.headers.get("ETag", "")

    def pages(self, path: str, item: type[Shape], *, limit: int | None = None, **query: Any) -> Iterator[Shape]:
        """Every item of a list, page after page, or the first `limit`. Raises what the server answers."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self.get(path, Page[item], limit=size, cursor=cursor, **query)  # type: ignore[valid-type]
            yield from page.items
            left = None if left is None else left - len(page.items)
            if page.next is None:
                return
            cursor = page.next

    def send(
        self,
        method: str,
        path: str,
        body: BaseModel | None,
        shape: type[Shape],
        *,
        repeatable: bool = False,
        timeout: float = ANSWER_TIMEOUT,
        **query: Any,
    ) -> Shape:
        """Change something and read the answer. It is retried under one Idempotency-Key.

        `repeatable` requests may be sent again as they are, so the server need not remember its answer.
        """
        key = "" if repeatable else uuid.uuid4().hex
        return self._shaped(self._send(method, path, query, body=body, timeout=timeout, key=key), shape)

    def do(self, method: str, path: str, body: BaseModel | None = None, **query: Any) -> None:
        """Change something whose answer says nothing more."""
        self._send(method, path, query, body=body, key=uuid.uuid4().hex)

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, Any],
        *,
        body: BaseModel | None = None,
        timeout: float = ANSWER_TIMEOUT,
        key: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> httpx2.Response:
        content = None if body is None else body.model_dump_json(exclude_unset=True).encode()
        headers = dict(headers) | ({"Content-Type": "application/json"} if content is not None else {})
        if method in _UNSAFE and key:
            headers["Idempotency-Key"] = key
        request = self._http.build_request(
            method,
            f"{self.url}{PREFIX}{path}",
            params={name: value for name, value in query.items() if value is not None},
            content=content,
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT),
        )
        response = self._persist(request)
        if response.is_redirect and response.status_code != 304:
            to = urlsplit(response.headers.get("Location", ""))
            raise ServerMovedError(f"{self.url} redirects to {to.scheme}://{to.netloc}{to.path}.")
        if response.is_error:
            raise self._refusal(response)
        return response

    def _persist(self, request: httpx2.Request) -> httpx2.Response:
        """Send until there is an answer worth reading, or patience ends."""
        waited = 0.0
        attempt = 0
        while True:
            wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311 - jitter
            attempt += 1
            try:
                response = self._http.send(request)
            except httpx2.TransportError as failure:
                patience = _PATIENCE if self._has_answered else _PATIENCE_UNSEEN
                if waited + wait > patience or _is_final(failure):
                    raise ServerUnreachableError(f"{self.url} cannot be reached: {_reason(failure)}.") from None
            else:
                self._has_answered = True
                if response.status_code not in _BUSY or attempt >= _ATTEMPTS_BUSY:
                    return response
                wait = max(wait, _retry_after(response))
                if waited + wait > _PATIENCE_BUSY:
                    return response
            time.sleep(wait)
            waited += wait

    def _refusal(self, response: httpx2.Response) -> Exception:
        try:
            problem = response.json()
        except ValueError:
            problem = None
        if isinstance(problem, dict) and "code" in problem:
            return from_problem(response.status_code, problem)
        said = f"{response.status_code} {response.reason_phrase}".rstrip()
        if response.status_code in _GATEWAY | _BUSY:
            return ServerUnreachableError(f"{self.url} answers {said}: the registry behind it does not run.")
        return NotARegistryError(f"{self.url} answers {said}, but not as a registry does.")

    def _shaped(self, response: httpx2.Response, shape: type[Shape]) -> Shape:
        try:
            return shape.model_validate_json(response.content)
        except ValidationError:
            raise NotARegistryError(f"{self.url} answers, but not as a registry does.") from None


def at(*parts: object) -> str:
    """A path from its parts; the slash in a model's name stays one."""
    model = 1 if parts[0] == "models" else None
    return "".join("/" + quote(str(part), safe="/" if index == model else "") for index, part in enumerate(parts))


def checked(shape: type[Shape], **values: Any) -> Shape:
    """Build what a request says. Raises InvalidArgumentError naming the first value that is wrong."""
    try:
        return shape.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidArgumentError(f"{where or shape.__name__} is not valid: {first['msg']}.", field=where) from None


def _is_final(failure: httpx2.TransportError) -> bool:
    """Whether trying again cannot help."""
    return isinstance(failure, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError) or "CERTIFICATE" in str(failure)


def _reason(failure: httpx2.TransportError) -> str:
    if isinstance(failure, httpx2.TimeoutException):
        return "no answer in time"
    return str(failure).rstrip(".") or type(failure).__name__


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0
