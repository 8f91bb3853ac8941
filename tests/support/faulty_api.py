"""A server that answers as scripted: what stands between a client and a registry, or pretends to be one."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Script:
    """The answers to give, in order, the last of them for ever; and what was asked."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def next(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def says(status: int, document: Any = None, *, text: str = "", **headers: str) -> Answer:
    """Answer with JSON, or with text that is none."""
    body = text.encode() if document is None else json.dumps(document).encode()
    kind = "text/html" if document is None else "application/json"

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def problem(status: int, code: str, **more: Any) -> Answer:
    """Answer with an error as a registry would."""
    document = {"type": "about:blank", "title": "", "status": status, "detail": "It is so.", "code": code}
    return says(status, document | {"remedy": "Do something.", "request_id": "r1"} | more)


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    """End the connection without a word."""
    handler.close_connection = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: "_Server"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        script = self.server.script
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        script.asked.append(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        script.next()(self)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - the library's names


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script


@contextmanager
def scripted(*answers: Answer) -> Iterator[Script]:
    """A server on a free port."""
    script = Script(answers=list(answers))
    server = _Server(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
