"""A push by hand: the protocol of `/uploads` with nothing of our client, so that tests can break any step of it."""

import hashlib
import http.client
import json
import struct
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from werkzeug.test import TestResponse

from tests.support.world import Http


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def weights(value: float = 1.0, *, count: int = 4, name: str = "w", metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file of one float32 vector."""
    header: dict[str, Any] = {name: {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + struct.pack(f"<{count}f", *[value] * count)


def put(url: str, data: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """Send bytes to the store as a presigned URL says."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("PUT", f"{parts.path}?{parts.query}", data, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def cut(data: bytes, size: int | None = None) -> list[bytes]:
    """Pieces of at most `size` bytes, one piece if no size is given."""
    step = size or max(len(data), 1)
    return [data[start : start + step] for start in range(0, len(data), step)]


def artifact(path: str, data: bytes, *, size: int | None = None) -> dict[str, Any]:
    """What a commit says of a file."""
    segments = [{"digest": digest(piece), "size": len(piece)} for piece in cut(data, size)]
    return {"path": path, "size": len(data), "digest": digest(data), "segments": segments}


@dataclass(frozen=True, slots=True)
class Push:
    """What happened in a push: how many segments were sent, and the answer of the commit."""

    sent: int
    answer: TestResponse

    @property
    def version(self) -> Any:
        assert self.answer.status_code in (200, 201), self.answer.text
        return self.answer.json


def push(
    http: Http,
    model: str,
    files: dict[str, bytes] | None = None,
    *,
    token: str = "",
    size: int | None = None,
    **more: Any,
) -> Push:
    """Push files by path, all segments in one batch, and commit with `more`."""
    contents = {"model.safetensors": weights()} if files is None else files
    pieces = {digest(piece): piece for data in contents.values() for piece in cut(data, size)}
    asked = [{"digest": name, "size": len(piece)} for name, piece in pieces.items()]
    begun = http.post("/uploads", json={"model": model, "segments": asked}, token=token)
    if begun.status_code != 201:
        return Push(0, begun)
    upload: Any = begun.json
    sent = []
    for item in upload["items"]:
        if item["status"] == "upload":
            status, text = put(item["url"], pieces[item["digest"]], item["headers"])
            assert status in (200, 412), text
            sent.append(item["digest"])
    if sent:
        reported = http.patch(f"/uploads/{upload['id']}/segments", json={"digests": sent}, token=token)
        assert reported.status_code == 200, reported.text
    artifacts = [artifact(path, data, size=size) for path, data in contents.items()]
    body = {"artifacts": artifacts} | more
    return Push(len(sent), http.post(f"/uploads/{upload['id']}/commit", json=body, token=token))
