"""The one function that makes outbound requests for users.

What a user names must not reach what only this server can reach. So the URL has one plain spelling (`domain.targets`),
its name is resolved here, each address is checked, the connection goes to the checked address itself and its peer is
checked again: nothing can be swapped between check and connect. No redirect is followed, no proxy of the environment is
used, and all of it, the resolving too, takes ten seconds at most.
"""

import http.client
import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from ipaddress import ip_address
from typing import Final

from registry.domain.errors import UnavailableError
from registry.domain.targets import (
    Address,
    Allowed,
    Target,
    TargetRefusedError,
    check_address,
    check_target,
    parse_target,
)

TIME_LIMIT_S: Final = 10.0
ANSWER_LIMIT: Final = 64 * 1024
_ADDRESSES_TRIED: Final = 4

Resolve = Callable[[str, int], Sequence[str]]
"""Addresses of a host, as text. Raises OSError."""


class TargetUnreachableError(UnavailableError):
    """The target does not answer: no address, no connection, no TLS, no HTTP, or not in time."""

    code = "TARGET_UNREACHABLE"
    remedy = "See that the receiver runs, with a certificate that this server trusts, and answers within ten seconds."


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host by this machine's resolver."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    allowed: Allowed,
    resolve: Resolve = resolve,
    time_limit_s: float = TIME_LIMIT_S,
) -> int:
    """POST to a URL that a user named, and give the status of the answer, whatever it is.

    The answer is read, up to 64 KiB of it, and thrown away: nobody can have the server fetch things. Raises
    TargetRefusedError before anything was sent, or TargetUnreachableError.
    """
    target = parse_target(url)
    check_target(target, allowed)
    deadline = _Deadline(time_limit_s)
    try:
        with _connected(target, allowed, resolve, deadline) as connection:
            return _exchange(connection, target, body, headers, deadline)
    except TimeoutError:
        raise TargetUnreachableError(f"No answer within {time_limit_s:g} s.") from None
    except ssl.SSLError as error:
        said = getattr(error, "verify_message", "") or error.reason or "no TLS"
        raise TargetUnreachableError(f"TLS fails: {said}.") from None
    except socket.gaierror:
        raise TargetUnreachableError(f"{target.host} has no address.") from None
    except http.client.HTTPException:
        raise TargetUnreachableError("The answer is not HTTP.") from None
    except OSError as error:
        raise TargetUnreachableError(f"The connection fails: {error.strerror or 'closed'}.") from None


class _Deadline:
    """The moment by which everything has to be over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left, more than none. Raises TimeoutError."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


class _Answer(io.RawIOBase):
    """The reading side of a connection: ends at the deadline and after 64 KiB, however slowly the bytes drip."""

    def __init__(self, connection: socket.socket, deadline: _Deadline) -> None:
        self._connection, self._deadline, self._room = connection, deadline, ANSWER_LIMIT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._room <= 0:
            raise http.client.HTTPException
        self._connection.settimeout(self._deadline.left())
        count = self._connection.recv_into(buffer[: self._room])
        self._room -= count
        return count

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What `HTTPResponse` asks of a socket."""
        return io.BufferedReader(self)


def _exchange(
    connection: socket.socket, target: Target, body: bytes, headers: Mapping[str, str], deadline: _Deadline
) -> int:
    lines = {"Host": target.authority, "Connection": "close", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    connection.settimeout(deadline.left())
    connection.sendall(f"POST {target.path} HTTP/1.1\r\n{head}\r\n".encode("ascii") + body)
    response = http.client.HTTPResponse(_Answer(connection, deadline), method="POST")  # type: ignore[arg-type]
    try:
        response.begin()
        # Politeness: a receiver that is still writing sees no reset. What it says after its status changes nothing.
        with suppress(OSError, http.client.HTTPException):
            while response.read(8192):
                pass
        return response.status
    finally:
        response.close()


def _connected(target: Target, allowed: Allowed, resolve: Resolve, deadline: _Deadline) -> socket.socket:
    """A connection to one of the target's addresses that may be called, with TLS if it is https."""
    usable = _usable(target, _addresses(target, resolve, deadline), allowed)
    connection = _first_that_answers(target, usable, deadline)
    try:
        # What the kernel says it is connected to, not what was asked for.
        peer = ip_address(connection.getpeername()[0])
        check_address(target, peer, allowed)
        if target.scheme == "http":
            return connection
        connection.settimeout(deadline.left())
        return _trust().wrap_socket(connection, server_hostname=target.host)
    except BaseException:
        connection.close()
        raise


def _addresses(target: Target, resolve: Resolve, deadline: _Deadline) -> list[Address]:
    """What the target's name means, once: the connection is made to what is returned here."""
    if target.address is not None:
        return [target.address]
    answer: queue.SimpleQueue[Sequence[str] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(resolve(target.host, target.port))
        except OSError as error:
            answer.put(error)
        except UnicodeError:  # a name that the resolver cannot even write down
            answer.put(socket.gaierror("not a name"))

    # The system's resolver knows no deadline. A thread that it holds up ends when it gives in.
    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found = answer.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, OSError):
        raise found
    return [ip_address(text) for text in dict.fromkeys(found)]


def _usable(target: Target, addresses: Sequence[Address], allowed: Allowed) -> list[Address]:
    """Those that may be called. Raises TargetRefusedError if there are none of them."""
    usable, refused = [], None
    for address in addresses:
        try:
            check_address(target, address, allowed)
        except TargetRefusedError as error:
            refused = error
        else:
            usable.append(address)
    if not usable:
        raise refused or TargetUnreachableError(f"{target.host} has no address.")
    return usable[:_ADDRESSES_TRIED]


def _first_that_answers(target: Target, addresses: Sequence[Address], deadline: _Deadline) -> socket.socket:
    """Try one address after the other, each for its share of the time."""
    failure: OSError = TimeoutError()
    for index, address in enumerate(addresses):
        connection = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        try:
            connection.settimeout(deadline.left() / (len(addresses) - index))
            connection.connect((str(address), target.port))
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


@cache
def _trust() -> ssl.SSLContext:
    """This machine's authorities, or those that SSL_CERT_FILE names."""
    return ssl.create_default_context()
