"""A store that costs next to nothing, to see what a client can do: sendfile for GET, what is PUT is thrown away.

It serves one file: `/bucket/whole` is all of it, with `Range`, and `/bucket/FIRST-LAST` a piece. Uploads are answered
as S3 does, in parts too. Signatures are not looked at. A thread for each connection, in a process of its own.
"""

import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_ROOT = Path(__file__).parents[1]
_HEAD_LIMIT = 64 << 10
_BLOCK = 1 << 20
_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\n(?:x-amz-decoded-)?content-length: *(\d+)", re.IGNORECASE)
_PIECE = re.compile(rb"/(\d+)-(\d+)$")
_STARTED = (
    b'<R xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket><Key>k</Key><UploadId>u</UploadId></R>'
)
_ENDED = b'<R xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><ETag>"e"</ETag></R>'
_ABOUT = b'ETag: "e"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nAccept-Ranges: bytes\r\n'


@contextmanager
def serving(file: Path, *, tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """The address of a server of `file`, with a certificate and its key if given."""
    command = [sys.executable, "-m", "benchmarks.reference", str(file), *map(str, tls or ())]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        finally:
            process.kill()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "reference store")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(signed.public_bytes(pem))
    files[1].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )  # fmt: skip
    return files


class _Connection:
    """One client, answered until it leaves."""

    def __init__(self, peer: socket.socket, file: int, size: int) -> None:
        self._peer, self._file, self._size = peer, file, size
        self._buffer = memoryview(bytearray(_BLOCK))
        self._rest = b""

    def serve(self) -> None:
        """Answer each request. Raises OSError when the client breaks off."""
        while head := self._head():
            method, target, _ = head.split(b" ", 2)
            length = _LENGTH.search(head)
            if method in {b"PUT", b"POST"}:
                if b"100-continue" in head.lower():
                    self._peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._discard(int(length[1]) if length else 0)
            if method == b"POST":
                self._answer(_STARTED if target.endswith(b"uploads") or b"uploads=" in target else _ENDED)
            elif method == b"PUT":
                self._answer(b"")
            else:
                self._send(head, target.partition(b"?")[0], with_body=method == b"GET")

    def _head(self) -> bytes:
        while b"\r\n\r\n" not in self._rest:
            got = self._peer.recv(_HEAD_LIMIT)
            if not got:
                return b""
            self._rest += got
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head

    def _discard(self, length: int) -> None:
        length -= len(self._rest[:length])
        self._rest = b""
        # The kernel throws the bytes away without copying them, where there is no TLS.
        flags = 0 if isinstance(self._peer, ssl.SSLSocket) else socket.MSG_TRUNC
        while length:
            got = self._peer.recv_into(self._buffer, min(length, _BLOCK), flags)
            if not got:
                raise ConnectionResetError
            length -= got

    def _answer(self, body: bytes) -> None:
        self._peer.sendall(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body))

    def _send(self, head: bytes, path: bytes, *, with_body: bool) -> None:
        piece, asked = _PIECE.search(path), _RANGE.search(head)
        first, last = (int(piece[1]), int(piece[2])) if piece else (0, self._size - 1)
        line = b"200 OK\r\n"
        if asked:
            first, last = int(asked[1]), min(last, int(asked[2] or last))
            line = b"206 Partial Content\r\nContent-Range: bytes %d-%d/%d\r\n" % (first, last, self._size)
        length = last - first + 1
        self._peer.sendall(b"HTTP/1.1 %s%sContent-Length: %d\r\n\r\n" % (line, _ABOUT, length))
        if with_body:
            self._copy(first, length)

    def _copy(self, position: int, length: int) -> None:
        end = position + length
        while position < end:
            if isinstance(self._peer, ssl.SSLSocket):
                got = os.preadv(self._file, [self._buffer[: end - position]], position)
                self._peer.sendall(self._buffer[:got])
            else:
                got = os.sendfile(self._peer.fileno(), self._file, position, end - position)
            position += got


def main() -> None:
    """Serve the file that is named until killed, or until nobody holds the other end of standard input."""
    file = os.open(sys.argv[1], os.O_RDONLY)
    size = os.fstat(file).st_size
    context = None
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2], sys.argv[3])

    def answer(peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            _Connection(context.wrap_socket(peer, server_side=True) if context else peer, file, size).serve()
        peer.close()

    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=_accept, args=(listening, answer), daemon=True).start()
    print(listening.getsockname()[1], flush=True)
    sys.stdin.read()


def _accept(listening: socket.socket, answer: object) -> None:
    assert callable(answer)
    while True:
        peer, _ = listening.accept()
        threading.Thread(target=answer, args=(peer,), daemon=True).start()


if __name__ == "__main__":
    main()
