"""What ours is measured beside, each in a process of its own (see `benchmarks.rounds`): boto3, s5cmd, bare loops.

A bare loop does what cannot be done without: requests on kept connections by several threads, and nothing else. Its
URLs are signed before the clock starts, and it verifies nothing unless it says so.
"""

import hashlib
import http.client
import json
import os
import ssl
import subprocess
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.rounds import Action

Job = Mapping[str, Any]
Piece = tuple[int, int, str]

_BUFFER = 256 << 10
_RANGE = 16 << 20
_PART = 32 << 20  # of the tuned uploads
_GET_THREADS, _PUT_THREADS = 8, 4


# boto3 and s5cmd


def _boto(job: Job, *, tuned: bool = False) -> Any:
    import boto3  # noqa: PLC0415 - only the side that is measured with it pays for it
    from botocore.config import Config  # noqa: PLC0415

    lean = Config(request_checksum_calculation="when_required", s3={"payload_signing_enabled": False})
    return boto3.client(
        "s3",
        endpoint_url=job["endpoint"],
        aws_access_key_id=job.get("access_key", "any"),
        aws_secret_access_key=job.get("secret_key", "any"),
        region_name="us-east-1",
        verify=job.get("trusted"),
        config=lean if tuned else None,
    )


def boto_upload(job: Job) -> Action:
    """`upload_file` as it comes."""
    client = _boto(job)
    return lambda: client.upload_file(job["source"], job["bucket"], job["key"])


def boto_upload_tuned(job: Job) -> Action:
    """`upload_file` in parts of 32 MiB by four threads, unsigned bodies, the file's sha256 computed beside it."""
    client, config = _boto(job, tuned=True), _transfer_config()

    def action() -> Mapping[str, Any]:
        found: list[str] = []
        hashing = threading.Thread(target=lambda: found.append(_sha256(Path(job["source"]))))
        hashing.start()
        client.upload_file(job["source"], job["bucket"], job["key"], Config=config)
        hashing.join()
        return {"sha256": found[0]}

    return action


def boto_upload_checked(job: Job) -> Action:
    """The same, but with the sha256 of each part, which S3 checks: the nearest to what ours does for a segment."""
    client, config = _boto(job, tuned=True), _transfer_config()
    extra = {"ChecksumAlgorithm": "SHA256"}
    return lambda: client.upload_file(job["source"], job["bucket"], job["key"], Config=config, ExtraArgs=extra)


def boto_upload_then_hash(job: Job) -> Action:
    """The same as tuned, with the sha256 of the file computed first, as most scripts do."""
    client, config = _boto(job, tuned=True), _transfer_config()

    def action() -> Mapping[str, Any]:
        digest = _sha256(Path(job["source"]))
        client.upload_file(job["source"], job["bucket"], job["key"], Config=config)
        return {"sha256": digest}

    return action


def boto_download(job: Job) -> Action:
    """`download_file` as it comes."""
    client = _boto(job)
    return _flushing(job, lambda: client.download_file(job["bucket"], job["key"], job["target"]))


def s5cmd_download(job: Job) -> Action:
    """`s5cmd cp` as it comes."""
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    environ |= {"AWS_ACCESS_KEY_ID": job["access_key"], "AWS_SECRET_ACCESS_KEY": job["secret_key"]}
    environ |= {"AWS_REGION": "us-east-1"}
    command = [job["s5cmd"], "--log", "error", "--endpoint-url", job["endpoint"], "cp"]
    command += [f"s3://{job['bucket']}/{job['key']}", job["target"]]
    return _flushing(job, lambda: subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL))


def _transfer_config() -> Any:
    from boto3.s3.transfer import TransferConfig  # noqa: PLC0415

    return TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=_PUT_THREADS)


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flushing(job: Job, download: Callable[[], object]) -> Action:
    Path(job["target"]).parent.mkdir(parents=True, exist_ok=True)

    def action() -> None:
        download()
        if job.get("flush"):
            with Path(job["target"]).open("rb+") as file:
                os.fsync(file.fileno())

    return action


# Bare loops


def bare_put(job: Job) -> Action:
    """A presigned PUT for each of the same objects, with the headers that ours has, by sendfile."""
    work = deque((piece, *_signed_put(job, piece)) for piece in _pieces(job))

    def action() -> Mapping[str, Any]:
        descriptor = os.open(job["source"], os.O_RDONLY)
        sent = _in_threads(_PUT_THREADS, lambda connection: _put_all(connection, descriptor, work), job["endpoint"])
        os.close(descriptor)
        return {"sent": sent}

    return action


def bare_get(job: Job) -> Action:
    """Ranged GETs of the whole object into a file of its full size; nothing is verified."""
    size = job["size"]
    work = deque((start, min(_RANGE, size - start)) for start in range(0, size, _RANGE))
    target = _signed(job, "GET", job["key"], {}) if "access_key" in job else f"/{job['bucket']}/{job['key']}"

    def action() -> None:
        descriptor = os.open(job["target"], os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(descriptor, 0, size)
        _in_threads(_GET_THREADS, lambda connection: _get_all(connection, target, descriptor, work), job["endpoint"])
        os.close(descriptor)

    return _flushing(job, action)


def bare_load(job: Job) -> Action:
    """The same objects that ours reads, into freshly allocated memory, each hashed and compared; no file."""
    import numpy as np  # noqa: PLC0415

    kept: list[Any] = []

    def action() -> Mapping[str, Any]:
        each = zip(job["pieces"], job["urls"], strict=True)
        buffers = [(piece, url, np.empty(piece[1], np.uint8).data) for piece, url in each]
        kept.append(buffers)  # giving the memory back is not counted
        work = deque(buffers)
        held = _in_threads(_GET_THREADS, lambda connection: _load_all(connection, work), job["endpoint"])
        return {"held": held}

    return action


def bare_read(job: Job) -> Action:
    """Objects by URL, read and thrown away."""

    def action() -> Mapping[str, Any]:
        work = deque(job["urls"])
        return {"read": _in_threads(_GET_THREADS, lambda connection: _read_all(connection, work), job["endpoint"])}

    return action


def _pieces(job: Job) -> list[Piece]:
    return [tuple(each) for each in json.loads(Path(job["pieces"]).read_text(encoding="utf-8"))]


def _signed(job: Job, method: str, key: str, headers: Mapping[str, str]) -> str:
    from registry.storage.presign import Identity, Target, presign  # noqa: PLC0415

    parts = urlsplit(job["endpoint"])
    target = Target(parts.scheme, parts.netloc, f"/{job['bucket']}", "us-east-1")
    identity = Identity(job["access_key"], job["secret_key"])
    signed = presign(target, identity, method=method, key=key, headers=headers, expires=3600, at=datetime.now(UTC))
    return signed.removeprefix(job["endpoint"])


def _signed_put(job: Job, piece: Piece) -> tuple[str, dict[str, str]]:
    _, size, sha256 = piece
    headers = {
        "content-length": str(size),
        "if-none-match": "*",
        "x-amz-checksum-sha256": b64encode(bytes.fromhex(sha256)).decode(),
    }
    return _signed(job, "PUT", f"{job['prefix']}/{sha256}", headers), headers


def _in_threads(count: int, work: Callable[[http.client.HTTPConnection], int], endpoint: str) -> int:
    """Let each thread work with a connection of its own; the sum of what they say. Raises what one of them raised."""
    done: list[int] = []
    failed: list[BaseException] = []

    def one() -> None:
        connection = _connection(endpoint)
        try:
            done.append(work(connection))
        except BaseException as failure:  # noqa: BLE001 - raised again below, where it is seen
            failed.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(done)


def _connection(endpoint: str) -> http.client.HTTPConnection:
    parts = urlsplit(endpoint)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=120, context=context)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)


def _put_all(
    connection: http.client.HTTPConnection, descriptor: int, work: "deque[tuple[Piece, str, dict[str, str]]]"
) -> int:
    sent = 0
    while True:
        try:
            (offset, size, _), target, headers = work.popleft()
        except IndexError:
            return sent
        connection.putrequest("PUT", target, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            connection.sock.sendfile(file, offset, size)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        sent += size


def _get_all(
    connection: http.client.HTTPConnection, target: str, descriptor: int, work: "deque[tuple[int, int]]"
) -> int:
    buffer, got_all = memoryview(bytearray(_BUFFER)), 0
    while True:
        try:
            start, size = work.popleft()
        except IndexError:
            return got_all
        connection.request("GET", target, headers={"Range": f"bytes={start}-{start + size - 1}"})
        answer = connection.getresponse()
        assert answer.status == 206, answer.read()
        end = start + size
        while start < end:
            got = answer.readinto(buffer[: end - start])
            assert got, "the answer ended early"
            os.pwrite(descriptor, buffer[:got], start)
            start += got
        answer.read()
        got_all += size


def _load_all(connection: http.client.HTTPConnection, work: "deque[tuple[Piece, str, memoryview]]") -> int:
    held = 0
    while True:
        try:
            (_, size, sha256), url, view = work.popleft()
        except IndexError:
            return held
        parts = urlsplit(url)
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        running, start = hashlib.sha256(), 0
        while start < size:
            got = answer.readinto(view[start : start + _BUFFER])
            assert got, "the answer ended early"
            running.update(view[start : start + got])
            start += got
        answer.read()
        assert running.hexdigest() == sha256, "damaged"
        held += size


def _read_all(connection: http.client.HTTPConnection, work: "deque[str]") -> int:
    buffer, got_all = memoryview(bytearray(_BUFFER)), 0
    while True:
        try:
            parts = urlsplit(work.popleft())
        except IndexError:
            return got_all
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        while got := answer.readinto(buffer):
            got_all += got
