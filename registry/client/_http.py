"""Requests to S3 by one thread: keep-alive connections over `http.client`, nothing between the socket and the caller.

A presigned URL is a capability. No message, log line or error of this module contains its query.
Redirects are never followed: a signed request answers for one host only.
"""

import http.client
import os
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

from registry.domain.errors import ExhaustedError, LocalError, UnavailableError

CONNECT_TIMEOUT = 10.0
IDLE_TIMEOUT = 60.0
# A thread's one buffer. Large enough that system calls, and the changes of thread that come with them, cost little;
# small enough that what was received is still near when it is hashed and written. From 256 KiB to 1 MiB a pull takes
# a twentieth less processor time.
BUFFER_SIZE = 1 << 20
_ANSWER_LIMIT = 64 << 10
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,64})\s*</Code>")


class StorageUnreachableError(UnavailableError):
    """The store did not answer, or answered only with errors of its own, until patience ran out."""

    code = "STORAGE_UNREACHABLE"
    remedy = "Check that the S3 endpoint is reachable from this machine, then repeat the command: it resumes."


class NoRoomError(ExhaustedError):
    """The store told the client itself, in the middle of an upload, that it has no room for more bytes."""

    code = "UPLOAD_STORE_FULL"
    remedy = "Ask whoever runs the store for room, then repeat the push: it resumes."


class StorageRefusedError(LocalError):
    """The store refused a signed request for a reason that repeating does not cure."""

    code = "STORAGE_REFUSED"
    remedy = "Compare the clocks of this machine, the registry and the store; report it if they agree."


@dataclass(frozen=True, slots=True)
class FileRange:
    """A body: `size` bytes of an open file from `offset` on."""

    descriptor: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, its body cut at a bound. `code` is S3's own word for what is wrong, or empty."""

    status: int
    code: str
    retry_after: float

    def __str__(self) -> str:
        """For messages: the status and S3's code."""
        return f"{self.status} {self.code}".rstrip()


class TruncatedError(OSError):
    """The connection ended before the body did."""


def place(url: str) -> str:
    """The URL without what makes it a capability."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Plain(http.client.HTTPConnection):
    """A connection without Nagle's delay, whose connecting has a limit of its own."""

    def connect(self) -> None:
        """Connect, then wait as long as the transfer may."""
        self.sock = _connected(self.host, self.port)


class _Secure(http.client.HTTPSConnection):
    """The same under TLS, with the machine's own trust."""

    def connect(self) -> None:
        """Connect and shake hands, then wait as long as the transfer may."""
        self.sock = _context().wrap_socket(_connected(self.host, self.port), server_hostname=self.host)


def _connected(host: str, port: int) -> socket.socket:
    found = socket.create_connection((host, port), CONNECT_TIMEOUT)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.settimeout(IDLE_TIMEOUT)
    return found


class Connections:
    """The connections of one thread, one a host. Only `abort` may be called from another thread."""

    def __init__(self) -> None:
        """Start without any; they are opened when first used."""
        self._open: dict[tuple[str, str, int], http.client.HTTPConnection] = {}
        self._aborted = False
        self.buffer = memoryview(bytearray(BUFFER_SIZE))

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: FileRange | None = None
    ) -> http.client.HTTPResponse:
        """Send one request and return the answer, its body unread. Raises OSError or http.client.HTTPException.

        A kept connection that the server has closed meanwhile is replaced once, unseen.
        """
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        key = (parts.scheme, parts.hostname or "", port)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        kept = self._open.get(key)
        if kept is not None and kept.sock is not None:
            try:
                return self._send(kept, method, target, headers, body)
            except (ConnectionError, http.client.BadStatusLine):
                kept.close()
        fresh = _Secure(key[1], port) if parts.scheme == "https" else _Plain(key[1], port)
        self._open[key] = fresh
        try:
            fresh.connect()
            if self._aborted:
                raise ConnectionAbortedError
            return self._send(fresh, method, target, headers, body)
        except BaseException:
            fresh.close()
            raise

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: FileRange | None,
    ) -> http.client.HTTPResponse:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers.items():
            if name.lower() not in {"host", "content-length"}:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(body.size))
        connection.endheaders()
        if body is None:
            return connection.getresponse()
        try:
            self._send_range(connection.sock, body)
        except ConnectionError as failure:
            # A store that refuses may answer and hang up before it has read the body; the answer says why.
            with suppress(OSError, http.client.HTTPException):
                return connection.getresponse()
            raise failure from None
        return connection.getresponse()

    def _send_range(self, sock: socket.socket, body: FileRange) -> None:
        if not isinstance(sock, ssl.SSLSocket):
            with open(body.descriptor, "rb", buffering=0, closefd=False) as file:
                if sock.sendfile(file, body.offset, body.size) != body.size:
                    raise EOFError
            return
        position, end = body.offset, body.offset + body.size
        while position < end:
            got = os.preadv(body.descriptor, [self.buffer[: end - position]], position)
            if got == 0:
                raise EOFError
            sock.sendall(self.buffer[:got])
            position += got

    def finish(self, response: http.client.HTTPResponse) -> Answer:
        """Read what is left of an answer that carries no weights, so that the connection can be used again."""
        body = response.read(_ANSWER_LIMIT)
        if not response.isclosed():
            self.drop()
        found = _CODE.search(body)
        wait = response.getheader("Retry-After", "")
        return Answer(response.status, found[1].decode() if found else "", float(wait) if wait.isdecimal() else 0.0)

    def drop(self) -> None:
        """Close everything, for instance after an answer that was not read to its end."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def abort(self) -> None:
        """Wake the owner wherever it waits; its request fails. Callable from any thread."""
        self._aborted = True
        for connection in list(self._open.values()):
            sock = connection.sock
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


def receive(response: http.client.HTTPResponse, view: memoryview) -> None:
    """Fill the view from the body. Raises TruncatedError if the body ends first."""
    while len(view):
        got = response.readinto(view)
        if not got:
            raise TruncatedError
        view = view[got:]
