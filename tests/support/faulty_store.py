"""A store that misbehaves on demand: an S3 of a few lines over a real socket, with faults by script."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from registry.client._hashing import Piece

Fault = Callable[[BaseHTTPRequestHandler, bytes], None]


def error(status: int, code: str = "", **headers: str) -> Fault:
    """Answer with an S3 error document."""

    def fault(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        document = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(document)))
        handler.end_headers()
        handler.wfile.write(document)

    fault.__name__ = f"{status}{code}"  # names the test case
    return fault


def reset(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Hang up without a word."""
    handler.close_connection = True


def truncated(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Promise all, send half, hang up."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def flipped(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Send every byte, one of them wrong."""
    wrong = bytearray(body)
    wrong[len(wrong) // 3] ^= 1
    whole(handler, bytes(wrong))


def whole(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """No fault at all."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def longer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Send more than was published."""
    whole(handler, body + b"x")


class Store:
    """Objects by sha256, what to do wrong next (`faults`, one an attempt), and what was asked for."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.requests: list[str] = []
        self.connections = 0
        self.expired: set[str] = set()
        self.signings = 0
        self.address = ""
        self.held = threading.Event()
        self.hold = False

    def sign(self, sha256: str) -> str:
        self.signings += 1
        return f"{self.address}/bucket/{sha256}?X-Signature=secret{self.signings}"

    def sign_each(self, pieces: Iterable[Piece]) -> dict[str, str]:
        return {piece.sha256: self.sign(piece.sha256) for piece in pieces}

    def add(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        self.objects[sha256] = data
        return sha256


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: "_Server"

    def setup(self) -> None:
        super().setup()
        self.server.store.connections += 1

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes) -> None:
        store = self.server.store
        key, _, query = self.path.rpartition("/")[2].partition("?")
        store.requests.append(f"{self.command} {key}")
        if store.hold:
            store.held.wait(30)
        self._fault(store, key, query)(self, body or store.objects.get(key, b""))

    def _fault(self, store: Store, key: str, query: str) -> Fault:
        if query in store.expired:
            return error(403, "AccessDenied")
        if store.faults[key]:
            return store.faults[key].pop(0)
        if self.command == "PUT":
            return _take(store, key)
        return whole if key in store.objects else error(404, "NoSuchKey")

    def do_GET(self) -> None:
        self.answer(b"")

    def do_PUT(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))


def _take(store: Store, key: str) -> Fault:
    def fault(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        exists = key in store.objects
        store.objects.setdefault(key, body)
        error(412 if exists else 200)(handler, body)

    return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, store: Store) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store


@contextmanager
def serving() -> Iterator[Store]:
    """A store on a free port."""
    store = Store()
    server = _Server(store)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    store.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield store
    finally:
        store.held.set()
        server.shutdown()
        thread.join()
        server.server_close()
