"""Bytes from and to the store: kept connections over `http.client`, nothing between the socket and the caller's memory.

A request costs boto3 3 ms of processor time, this 0.6, and boto3 cannot fill memory that the caller has already.
Nothing here knows keys or signatures: it is given URLs, which are capabilities, so no message contains one. Redirects
are never followed.
"""

import http.client
import re
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from threading import Lock
from urllib.parse import urlsplit

_CONNECT_TIMEOUT = 3.0
_IDLE_TIMEOUT = 60.0
_KEPT = 32
_ANSWER_LIMIT = 64 << 10
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,64})\s*</Code>")
_OK, _PARTIAL = 200, 206


class RefusedError(Exception):
    """The store answered, and the answer is no. `code` is S3's own word for it, or empty."""

    def __init__(self, status: int, code: str) -> None:
        """Keep what the store said."""
        super().__init__(f"{status} {code}".rstrip())
        self.status = status
        self.code = code


class ShortError(Exception):
    """The object ends before the range that was asked for."""


class TruncatedError(OSError):
    """The connection ended before the body did."""


class Abort:
    """Gives up transfers from another thread: those under way fail at once, and none begins any more."""

    def __init__(self) -> None:
        """Nothing is given up yet."""
        self._lock = Lock()
        self._sockets: set[socket.socket] = set()
        self.is_set = False

    def set(self) -> None:
        """Give up. May be repeated."""
        with self._lock:
            self.is_set = True
            for sock in self._sockets:
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own: it is in use by another thread

    def check(self) -> None:
        """Raise ConnectionAbortedError if it was set."""
        if self.is_set:
            raise ConnectionAbortedError

    @contextmanager
    def watching(self, sock: socket.socket) -> Iterator[None]:
        """The time in which a transfer uses the socket. Raises ConnectionAbortedError if it must not begin."""
        with self._lock:
            self.check()
            self._sockets.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(sock)


class _Plain(http.client.HTTPConnection):
    """A connection without Nagle's delay, whose connecting has a limit of its own."""

    def connect(self) -> None:
        """Connect, then wait as long as a transfer may."""
        self.sock = _connected(self.host, self.port)


class _Secure(http.client.HTTPSConnection):
    """The same under TLS."""

    def __init__(self, host: str, port: int, trust: ssl.SSLContext) -> None:
        """Trust whom `trust` says."""
        super().__init__(host, port, context=trust)
        self._trust = trust

    def connect(self) -> None:
        """Connect and shake hands, then wait as long as a transfer may."""
        self.sock = self._trust.wrap_socket(_connected(self.host, self.port), server_hostname=self.host)


def _connected(host: str, port: int) -> socket.socket:
    found = socket.create_connection((host, port), _CONNECT_TIMEOUT)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.settimeout(_IDLE_TIMEOUT)
    return found


class Transfers:
    """Connections to one store, shared by threads: each has one for itself while it transfers.

    What goes wrong is raised as it is: OSError, `http.client.HTTPException`, RefusedError; repeating is the caller's.
    """

    def __init__(self, authorities: Callable[[], str]) -> None:
        """`authorities` names the file of certificates that TLS trusts; asked for when first needed."""
        self._authorities = authorities
        self._idle: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _close_all, self._idle)

    def get(self, url: str, view: memoryview, *, offset: int, abort: Abort) -> None:
        """Fill the view with the object's bytes from `offset`. Raises ShortError or TruncatedError."""
        headers = {"Range": f"bytes={offset}-{offset + len(view) - 1}"}
        with self._answered("GET", url, headers, None, abort) as response:
            whole = response.status == _OK and offset == 0  # a store may ignore a range that asks for everything
            if response.status != _PARTIAL and not whole:
                raise _refusal(response)
            if response.length is None or response.length < len(view):
                raise ShortError
            while view:
                got = response.readinto(view)
                if not got:
                    raise TruncatedError
                view = view[got:]

    def put(self, url: str, headers: Mapping[str, str], body: memoryview, *, abort: Abort) -> dict[str, str]:
        """Send the body; give the headers of the answer, their names in lower case."""
        with self._answered("PUT", url, headers, body, abort) as response:
            if response.status != _OK:
                raise _refusal(response)
            response.read(_ANSWER_LIMIT)
            return {name.lower(): value for name, value in response.headers.items()}

    @contextmanager
    def _answered(
        self, method: str, url: str, headers: Mapping[str, str], body: memoryview | None, abort: Abort
    ) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}"
        port = parts.port or (443 if parts.scheme == "https" else 80)
        while True:
            kept = self._kept(str(parts.hostname), port)
            connection = kept or self._fresh(parts.scheme, str(parts.hostname), port)
            try:
                if kept is None:
                    connection.connect()
                with abort.watching(connection.sock):
                    try:
                        connection.request(method, target, body, dict(headers))
                        response = connection.getresponse()
                    except (ConnectionError, http.client.BadStatusLine):
                        if kept is None or abort.is_set:
                            raise
                        connection.close()
                        continue  # The store had closed it meanwhile: nothing was asked yet.
                    yield response
            except BaseException:
                connection.close()
                raise
            break
        if response.isclosed() and not response.will_close and len(self._idle) < _KEPT:
            self._idle.append(connection)
        else:
            connection.close()

    def _kept(self, host: str, port: int) -> http.client.HTTPConnection | None:
        with suppress(IndexError):
            while True:
                found = self._idle.pop()
                if (found.host, found.port) == (host, port) and found.sock is not None:
                    return found
                found.close()
        return None

    def _fresh(self, scheme: str, host: str, port: int) -> http.client.HTTPConnection:
        return _Secure(host, port, self._trust) if scheme == "https" else _Plain(host, port)

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._authorities())


def _close_all(connections: list[http.client.HTTPConnection]) -> None:
    while connections:
        connections.pop().close()


def _refusal(response: http.client.HTTPResponse) -> RefusedError:
    found = _CODE.search(response.read(_ANSWER_LIMIT))
    return RefusedError(response.status, found[1].decode() if found else "")
