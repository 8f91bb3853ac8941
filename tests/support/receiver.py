"""A receiver of webhooks: verifies each message, remembers it, and answers what it is told to."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook


@dataclass
class Message:
    """What came in, in the order of its arrival."""

    id: str
    chain: str
    seq: int
    subject: str
    action: str
    path: str
    status: int


@dataclass
class Receiver:
    """`answer(message, how many times its id came before)` gives the status."""

    answer: Callable[[dict[str, Any], int], int] = lambda _body, _before: 204
    secret: str = ""
    messages: list[Message] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _counts: dict[str, int] = field(default_factory=dict)

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def take(self, path: str, headers: dict[str, str], content: bytes) -> int:
        name, body = headers.get("webhook-id", ""), json.loads(content)
        try:
            if self.secret:
                Webhook(self.secret).verify(content, headers)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a message is told by the test
            self.problems.append(f"{name}: {error}")
        with self._lock:
            before = self._counts.get(name, 0)
            self._counts[name] = before + 1
        status = self.answer(body, before)
        data = body["data"]
        with self._lock:
            self.messages.append(
                Message(name, data["chain"], data["seq"], data["subject"], data["action"], path, status)
            )
        return status


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status = self.receiver.take(self.path, headers, content)
        try:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        except OSError:
            pass  # whoever asked was killed

    def log_message(self, *_given: Any) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def receiving(receiver: Receiver):
    handler = type("Handler", (_Handler,), {"receiver": receiver})
    server = _Server(("127.0.0.1", 0), handler)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
