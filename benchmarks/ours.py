"""What is measured of this project's client, each in a process of its own (see `benchmarks.rounds`).

The whole client where there is a registry; its engine, below the API, where there is only the reference store.
"""

import hashlib
import http.client
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

import registry
from benchmarks.rounds import Action
from registry.client._download import fetch_file
from registry.client._hashing import Piece, hashing
from registry.client._push import push as push_files
from registry.client._sources import Source, sources
from registry.client._upload import Put, upload
from registry.wire import CommitIn, SegmentOut

Job = Mapping[str, Any]


class Requests:
    """Counts what this process asks the API and the store from now on, whoever asks it here."""

    def __init__(self) -> None:
        """Look at every request of the two libraries that the client sends with."""
        self.api = self.store = 0
        send, put = httpx2.Client.send, http.client.HTTPConnection.putrequest

        def sent(client: httpx2.Client, *given: Any, **named: Any) -> httpx2.Response:
            self.api += 1
            return send(client, *given, **named)

        def begun(connection: http.client.HTTPConnection, *given: Any, **named: Any) -> None:
            self.store += 1
            put(connection, *given, **named)

        httpx2.Client.send = sent  # type: ignore[method-assign, assignment]
        http.client.HTTPConnection.putrequest = begun  # type: ignore[method-assign, assignment]

    def facts(self) -> dict[str, int]:
        """What was counted."""
        return {"api_requests": self.api, "store_requests": self.store}


def _client(job: Job) -> registry.Client:
    return registry.Client(job["url"], job["token"], cache=Path(job["cache"]))


def push(job: Job) -> Action:
    """`client.push`: hashes, asks, sends, reports, commits."""
    client, requests = _client(job), Requests()

    def action() -> Mapping[str, Any]:
        version = client.push(job["model"], job["source"])
        (artifact,) = version.artifacts
        moved = version.transfer.moved if version.transfer else 0
        return {
            "ref": version.ref,
            "sha256": artifact.digest.removeprefix("sha256:"),
            "moved": moved,
        } | requests.facts()

    return action


def push_pieces(job: Job) -> Action:
    """A push of one file that is cut into pieces of `piece` bytes, as many as there are."""
    client, requests, path = _client(job), Requests(), Path(job["source"])
    size, piece = path.stat().st_size, job["piece"]
    spans = tuple((start, min(piece, size - start)) for start in range(0, size, piece))
    files = [Source("weights.bin", path, size, spans)]

    def action() -> Mapping[str, Any]:
        push_files(
            client._api,  # noqa: SLF001 - the public way cuts files itself
            job["model"],
            files,
            lambda artifacts: CommitIn(artifacts=artifacts, kind="release"),
            progress=None,
        )
        return {"segments": len(spans)} | requests.facts()

    return action


def push_to_reference(job: Job) -> Action:
    """The engine of a push: both hashes of every byte, and a PUT for each segment."""
    (source,) = sources([Path(job["source"])])

    def put(piece: Piece) -> Put:
        url = f"{job['endpoint']}/bucket/{piece.sha256}"
        return Put(source.path, piece.offset, piece.size, piece.sha256, url, {})

    def action() -> Mapping[str, Any]:
        with hashing([(source.path, source.spans)]) as work:
            upload((put(piece) for _, piece in work), refresh=lambda stale: stale)
            (file,) = work.files()
        return {"sha256": file.sha256}

    return action


def pull(job: Job) -> Action:
    """`client.pull` into a directory: every segment verified, the file flushed to the disk."""
    client, requests = _client(job), Requests()

    def action() -> Mapping[str, Any]:
        client.pull(job["ref"], job["target"])
        return requests.facts()

    return action


def pull_unflushed(job: Job) -> Action:
    """The engine of a pull with the API's list of segments, which leaves flushing to the system, as others do."""
    client = _client(job)
    model, _, number = job["ref"].rpartition(":")
    path = f"/models/{model}/versions/{number}/segments"

    def action() -> None:
        found = list(client._api.pages(path, SegmentOut, artifact=job["artifact"], urls=1))  # noqa: SLF001 - as above
        pieces = [Piece(each.offset, each.size, each.digest.removeprefix("sha256:")) for each in found]
        urls = {each.digest.removeprefix("sha256:"): str(each.url) for each in found}
        _fetch(job, pieces, urls)

    return action


def pull_from_reference(job: Job) -> Action:
    """The same engine against the reference store, where a piece is a part of the one file."""
    pieces = [Piece(*each) for each in json.loads(Path(job["pieces"]).read_text(encoding="utf-8"))]
    base = f"{job['endpoint']}/bucket"
    urls = {piece.sha256: f"{base}/{piece.offset}-{piece.offset + piece.size - 1}" for piece in pieces}
    return lambda: _fetch(job, pieces, urls)


def _fetch(job: Job, pieces: Sequence[Piece], urls: Mapping[str, str]) -> None:
    target, size = Path(job["target"]), sum(piece.size for piece in pieces)
    target.parent.mkdir(parents=True, exist_ok=True)
    fetch_file(
        target, pieces, lambda wanted: {each.sha256: urls[each.sha256] for each in wanted}, size=size, durable=False
    )


def load(job: Job) -> Action:
    """`client.load` into numpy: all tensors, or those that `tensors` names."""
    client, requests = _client(job), Requests()
    wanted, kept = job.get("tensors", []), []

    def action() -> Mapping[str, Any]:
        found = client.load(job["ref"], wanted)
        kept.append(found)  # giving the memory back is not counted
        return {"held": sum(array.nbytes for array in found.values()), "tensors": len(found)} | requests.facts()

    return action


def loaded(job: Job) -> Action:
    """What `load` gives, by name and sha256: to be compared, not to be measured."""
    client, wanted = _client(job), job.get("tensors", [])

    def action() -> Mapping[str, Any]:
        found = client.load(job["ref"], wanted)
        return {"digests": {name: hashlib.sha256(array).hexdigest() for name, array in found.items()}}

    return action
