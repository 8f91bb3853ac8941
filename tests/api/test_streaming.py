"""Files of many segments through the API under its real server."""

import hashlib
import http.client
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file
from sqlalchemy import select

from registry.db.session import Database
from registry.db.tables import Segment
from registry.storage.layout import segment_key
from registry.storage.s3 import Store
from registry.storage.streaming import READERS
from tests.support.live import TOKEN, Live, live_registry

MIB = 1 << 20
URL = "/api/v1/models/big/versions/1/artifacts/model.safetensors?redirect=0"
SERVER_THREADS = 8
"""As many of its own the server may have started meanwhile."""
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, s3_config) -> Iterator[Live]:
    with live_registry(tmp_path_factory.mktemp("streaming"), s3_config) as found:
        yield found


@pytest.fixture(scope="module")
def big(live: Live) -> Path:
    """A version of 300 MiB whose tensors are six, again and again: little to push, much to stream."""
    file = live.folder / "model.safetensors"
    kinds = [np.random.default_rng(seed).integers(0, 256, 5 * MIB, np.uint8) for seed in range(6)]
    save_file({f"layer.{index:02}": kinds[index % 6] for index in range(60)}, file)
    with live.client(cache=live.folder / "cache") as client:
        client.push("big", file)
    return file


def ask(live: Live, url: str = URL, **headers: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=60)
    connection.request("GET", url, headers=HEADERS | headers)
    return connection, connection.getresponse()


def api(live: Live) -> psutil.Process:
    """The process that serves; what started it only waits."""
    assert live.process is not None
    return max(psutil.Process(live.process.pid).children(recursive=True), key=lambda each: each.memory_info().rss)


def settled(ask, wanted, *, patience_s=5.0):
    until = time.monotonic() + patience_s
    while ask() != wanted and time.monotonic() < until:
        time.sleep(0.02)
    return ask()


def test_memory_does_not_grow_with_the_file(live, big):
    process = api(live)
    connection, answer = ask(live, Range="bytes=0-9")  # whatever a first request loads
    answer.read()
    before, most, digest = process.memory_info().rss, 0, hashlib.sha256()
    connection.request("GET", URL, headers=HEADERS)
    answer = connection.getresponse()
    while block := answer.read(4 * MIB):
        digest.update(block)
        most = max(most, process.memory_info().rss)
    connection.close()
    assert digest.hexdigest() == hashlib.sha256(big.read_bytes()).hexdigest()
    assert most - before <= 64 * MIB


def test_a_range_crosses_the_borders_of_segments(live, big):
    data = big.read_bytes()
    for first, last in [(0, 20 * MIB), (7 * MIB + 1, 23 * MIB + 5), (len(data) - 9 * MIB, len(data) - 1)]:
        connection, answer = ask(live, Range=f"bytes={first}-{last}")
        assert answer.status == 206
        assert answer.read() == data[first : last + 1]
        connection.close()


def test_a_client_that_goes_away_leaves_no_threads(live, big):
    process = api(live)
    before = process.num_threads()
    for _ in range(6):  # more than may stream at once: each gives its place back
        connection, answer = ask(live)
        assert answer.status == 200
        answer.read(MIB)
        answer.close()
        connection.close()
        assert settled(lambda: process.num_threads() < before + SERVER_THREADS + READERS, True)


def test_clients_that_do_not_read_hold_their_own_buffers_and_no_more(live, big):
    process = api(live)
    before = process.memory_info().rss
    held = [ask(live) for _ in range(4)]
    time.sleep(1)
    assert process.memory_info().rss - before <= 4 * 24 * MIB
    connection, answer = ask(live)
    assert (answer.status, answer.getheader("Retry-After")) == (503, "2")
    assert b"STREAMS_BUSY" in answer.read()
    connection.close()
    connection, answer = ask(live, "/api/v1/models/big")
    assert answer.status == 200
    answer.read()
    connection.close()
    for connection, answer in held:
        answer.close()
        connection.close()

    def works():
        connection, answer = ask(live)
        answer.close()
        connection.close()
        return answer.status

    assert settled(works, 200) == 200


def test_four_at_once_get_every_byte(live, big):
    expected, found = hashlib.sha256(big.read_bytes()).hexdigest(), []

    def read():
        connection, answer = ask(live)
        found.append(hashlib.sha256(answer.read()).hexdigest())
        connection.close()

    time.sleep(0.5)  # those of other tests have gone
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_a_flipped_byte_breaks_the_connection(live, big, s3_config):
    database, store = Database(live.environment["REGISTRY_DATABASE_URL"]), Store(s3_config)
    with database.transaction(read_only=True) as session:
        row = session.scalars(select(Segment).order_by(Segment.size.desc()).limit(1)).first()
    database.dispose()
    assert row is not None
    key = segment_key(row.namespace_id, row.sha256, 1, "raw")
    right = store.read(key, 0, row.size)
    wrong = right[:-1] + bytes([right[-1] ^ 1])
    store.put(key, wrong, hashlib.sha256(wrong).hexdigest())
    try:
        command = ["curl", "-sS", "-H", f"Authorization: Bearer {TOKEN}", "-o", "/dev/null", live.url + URL]
        ended = subprocess.run(command, capture_output=True, check=False)
    finally:
        store.put(key, right, row.sha256)
    assert ended.returncode in (18, 56), ended.stderr  # a transfer that ended too soon
    assert "VERSION_DAMAGED" in (live.folder / "api.log").read_text()
