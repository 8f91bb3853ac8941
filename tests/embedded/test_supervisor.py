import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from registry.domain.errors import RegistryError
from registry.embedded import seaweed
from registry.embedded.environment import public_host
from registry.embedded.home import Home
from registry.storage.s3 import Store, StoreConfig

ROOT = Path(__file__).parents[2]
KEY = "ns/1/aa/kept"


class Serving:
    """A `serve` in a process of its own, as a person would start it."""

    def __init__(self, home, *, host="127.0.0.1", ports=None, **environ):
        self.home, self.host = Home(home), host
        self.port: int
        self.s3_port: int
        self.port, self.s3_port = ports or seaweed.free_ports(2)
        self.said = home.parent / f"{time.monotonic_ns()}.out"
        base = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "AWS_"))}
        with self.said.open("w") as out, self.said.with_suffix(".err").open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.embedded.serve", str(home), host, str(self.port), str(self.s3_port)],
                cwd=ROOT,
                env=base | {"PYTHONPATH": str(ROOT)} | environ,
                stdout=out,
                stderr=err,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def out(self):
        return self.said.read_text()

    @property
    def err(self):
        return self.said.with_suffix(".err").read_text()

    def ready(self):
        until = time.monotonic() + 20
        while time.monotonic() < until and self.process.poll() is None:
            try:
                answer = self.get("/readyz")
            except OSError:
                answer = None
            if answer and "Registry:" in self.out:
                return answer
            time.sleep(0.05)
        raise AssertionError(self.err)

    def refused(self):
        assert self.process.wait(20) == 1
        assert len(self.err.splitlines()) == 1
        return self.err

    def get(self, path):
        with urlopen(f"http://{self.reached}:{self.port}{path}", timeout=5) as answer:
            return json.loads(answer.read())

    @property
    def reached(self):
        return seaweed.reachable(self.host)

    def children(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number=signal.SIGINT):
        self.process.send_signal(number)
        return self.process.wait(20)

    def store(self, endpoint=None):
        keys = self.home.credentials()
        endpoint = endpoint or f"http://{self.reached}:{self.s3_port}"
        return Store(StoreConfig(seaweed.BUCKET, endpoint, None, seaweed.REGION, keys.access_key, keys.secret_key))


def gone(processes, timeout=5):
    return not psutil.wait_procs(processes, timeout=timeout)[1]


def refuses_strangers(host, port):
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    trusting.set_alpn_protocols(["h2"])
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5)
    with socket.create_connection((host, port), timeout=5) as plain:
        plain.sendall(hello)
        answered_plain = plain.recv(1)[:1] not in {b"", b"\x15"}  # 0x15: a TLS alert
    with socket.create_connection((host, port), timeout=5) as raw, trusting.wrap_socket(raw) as stranger:
        try:
            stranger.sendall(hello)
            answered_stranger = stranger.recv(1) != b""
        except ssl.SSLError as error:
            answered_stranger = "CERTIFICATE" not in str(error).upper()
    return not answered_plain and not answered_stranger


def put(store, data):
    store.put(KEY, data, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_tells_its_token_once_and_stops_all(tmp_path, number):
    with Serving(tmp_path / "home") as first:
        before = time.monotonic()
        first.ready()
        assert time.monotonic() - before < 15
        children = first.children()
        assert len(children) == 3
        put(first.store(), b"kept")
        assert first.end(number) == 0
        assert gone(children)
    token = (tmp_path / "home/admin-token").read_text()
    assert len(token) >= 20
    assert token in first.out
    assert f"http://127.0.0.1:{first.port}" in first.out
    with Serving(tmp_path / "home", ports=(first.port, first.s3_port)) as second:
        second.ready()
        assert second.store().read(KEY, 0, 9) == b"kept"
        assert second.end(number) == 0
    assert token not in second.out + second.err
    assert f"http://127.0.0.1:{first.port}" in second.out


def test_secrets_are_for_the_owner_alone(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    with Serving(home) as serving:
        serving.ready()
        serving.end()
    assert home.stat().st_mode & 0o777 == 0o700
    for secret in ("admin-token", "seaweedfs.json"):
        assert (home / secret).stat().st_mode & 0o777 == 0o600


def test_two_homes_share_no_secret(tmp_path):
    homes = [Home.open(tmp_path / name) for name in "ab"]
    assert homes[0].credentials() != homes[1].credentials()
    assert homes[0].admin_token() != homes[1].admin_token()
    assert homes[0].credentials() == homes[0].credentials()


def test_a_second_serve_on_the_same_home_is_refused_with_one_line(tmp_path):
    with Serving(tmp_path / "home") as first:
        first.ready()
        with Serving(tmp_path / "home") as second:
            line = second.refused()
            assert line.startswith(
                f"HOME_IN_USE: The home {tmp_path / 'home'} is in use by process {first.process.pid}"
            )
        first.get("/readyz")
        assert first.end() == 0


def test_a_taken_port_is_refused_with_one_line(tmp_path):
    with Serving(tmp_path / "a") as first:
        first.ready()
        for ports in ((first.port, first.s3_port + 1), (first.port + 1, first.s3_port)):
            with Serving(tmp_path / "b", ports=ports) as second:
                assert second.refused().startswith("PORT_IN_USE: Port ")
        first.end()


def test_a_killed_supervisor_leaves_no_orphan_and_the_next_start_has_the_bytes(tmp_path):
    with Serving(tmp_path / "home") as first:
        first.ready()
        children = first.children()
        put(first.store(), b"kept")
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
        assert gone(children)
    with Serving(tmp_path / "home") as second:
        second.ready()
        assert second.store().read(KEY, 0, 9) == b"kept"
        second.end()


def test_a_process_that_dies_is_started_again(tmp_path):
    with Serving(tmp_path / "home") as serving:
        before = serving.ready()["pid"]
        with pytest.raises((OSError, http.client.HTTPException)):
            serving.get("/crash")
        assert serving.ready()["pid"] != before
        assert serving.end() == 0
        assert "api ended with 3; starting it again" in serving.err


def test_a_store_that_is_killed_comes_back_with_what_it_acknowledged(tmp_path):
    with Serving(tmp_path / "home") as serving:
        serving.ready()
        put(serving.store(), b"kept")
        (weed,) = [child for child in serving.children() if child.name() == "weed"]
        weed.kill()
        assert gone([weed])
        until = time.monotonic() + 20
        while True:
            assert time.monotonic() < until
            with suppress(RegistryError):
                assert serving.store().read(KEY, 0, 9) == b"kept"
                break
            time.sleep(0.2)
        assert serving.end() == 0


def test_only_the_gateway_is_opened_to_another_host(tmp_path):
    host = public_host("0.0.0.0")
    if host == "127.0.0.1":
        pytest.skip("this machine has no other address")
    with Serving(tmp_path / "home", host=host) as serving:
        serving.ready()
        assert serving.get("/environment")["REGISTRY_S3_PUBLIC_ENDPOINT_URL"] == f"http://{host}:{serving.s3_port}"
        put(serving.store(), b"kept")
        url = serving.store().presign_get(KEY, expires=60)
        assert url.startswith(f"http://{host}:{serving.s3_port}/")
        with urlopen(url, timeout=5) as answer:
            assert answer.read() == b"kept"
        opened = {
            listener.laddr.port
            for child in serving.children()
            for listener in child.net_connections("tcp")
            if listener.status == psutil.CONN_LISTEN and listener.laddr.ip != "127.0.0.1"
        }
        # The gateway's control port cannot be kept on loopback, so it asks for a certificate that nobody else has.
        (control,) = opened - {serving.port, serving.s3_port}
        assert refuses_strangers(host, control)
        serving.end()


def test_every_address_means_clients_are_sent_to_the_primary_one(tmp_path):
    with Serving(tmp_path / "home", host="0.0.0.0") as serving:
        serving.ready()
        told = serving.get("/environment")
        assert told["REGISTRY_S3_ENDPOINT_URL"] == f"http://127.0.0.1:{serving.s3_port}"
        assert told["REGISTRY_S3_PUBLIC_ENDPOINT_URL"] == f"http://{public_host('0.0.0.0')}:{serving.s3_port}"
        serving.end()
    assert "REGISTRY_S3_PUBLIC_ENDPOINT_URL names another address" in serving.err


def test_an_external_database_and_store_are_used_as_they_are(tmp_path):
    given = {
        "REGISTRY_DATABASE_URL": "postgresql+psycopg://elsewhere/registry",
        "REGISTRY_S3_ENDPOINT_URL": "http://elsewhere:9000",
        "REGISTRY_S3_BUCKET": "mine",
        "REGISTRY_ADMIN_TOKEN": "a token of my own choosing",
        "AWS_ACCESS_KEY_ID": "mine",
    }
    with Serving(tmp_path / "home", **given) as serving:
        serving.ready()
        assert serving.get("/environment").items() >= given.items()
        assert len(serving.children()) == 2
        assert not list((tmp_path / "home/seaweedfs").iterdir())
        assert serving.end() == 0
    assert given["REGISTRY_ADMIN_TOKEN"] not in serving.out


def test_the_users_own_aws_settings_do_not_reach_the_embedded_store(tmp_path):
    foreign = {
        "AWS_SESSION_TOKEN": "x",
        "AWS_PROFILE": "work",
        "AWS_ENDPOINT_URL": "http://elsewhere",
        "AWS_REGION": "x",
    }
    with Serving(tmp_path / "home", **foreign) as serving:
        serving.ready()
        told = serving.get("/environment")
        assert "AWS_SESSION_TOKEN" not in told
        assert "AWS_PROFILE" not in told
        assert "AWS_ENDPOINT_URL" not in told
        assert told["AWS_REGION"] == seaweed.REGION
        serving.end()


def test_what_children_say_is_kept_in_the_home(tmp_path):
    with Serving(tmp_path / "home") as serving:
        serving.ready()
        said = {
            "api": "says ['api', '--host', '127.0.0.1'",
            "worker": "says ['worker']",
            "seaweedfs": "Start Seaweed S3",
        }
        until = time.monotonic() + 10  # Ready means that the API answers; the worker may not have said a word yet.
        while any(words not in (tmp_path / f"home/logs/{name}.log").read_text() for name, words in said.items()):
            assert time.monotonic() < until
            time.sleep(0.05)
        serving.end()
