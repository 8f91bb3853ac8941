"""`registry serve` whole: the real API, worker and store, as a person starts, uses, stops, kills and secures them."""

import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from safetensors.numpy import save_file

from benchmarks.serving import Serving

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("serve")]

NAME = "default/kept"
MIB = 1 << 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """One home for the whole module; its first start is what the tests below ask about."""
    serving = Serving(tmp_path_factory.mktemp("serve"))
    serving.took = serving.start()  # type: ignore[attr-defined]
    serving.greeting = serving.out + serving.err  # type: ignore[attr-defined]
    yield serving
    if serving.is_running():
        serving.stop()


@pytest.fixture
def served(stack):
    """The same, running, whatever the test before did to it."""
    if not stack.is_running():
        stack.start()
    return stack


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    random = np.random.default_rng(1)
    save_file({f"layer.{n}": random.standard_normal((512, 512), dtype=np.float32) for n in range(3)}, path)
    return path


@pytest.fixture
def other_address():
    """An address of this machine that is not loopback; made for the test where there is none and we may."""
    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            up = psutil.net_if_stats()[name].isup
            if each.family == socket.AF_INET and up and not ipaddress.ip_address(each.address).is_loopback:
                yield each.address
                return
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("this machine has no address but loopback, and only root can give it one")
    name, address = "registry-e2e", "198.51.100.7"
    made = subprocess.run(["ip", "link", "add", name, "type", "dummy"], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("this machine has no address but loopback, and none can be made")
    try:
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield address
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


@contextmanager
def started(folder, **options):
    serving = Serving(folder, **options)
    try:
        serving.start()
        yield serving
    finally:
        if serving.is_running():
            serving.stop()


def family(serving):
    """Every process of the stack, the one that was started first."""
    parent = psutil.Process(serving.pid)
    return [parent, *parent.children(recursive=True)]


def of(serving, word):
    """The processes whose command line has this word, and what descends from them."""
    return [each for each in family(serving) if word in each.cmdline() or each.name() == word]


def listening(processes):
    return {
        (each.laddr.ip, each.laddr.port)
        for process in processes
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN or (each.type == socket.SOCK_DGRAM and each.laddr)
    }


def gone(processes, timeout=10):
    return [process.name() for process in psutil.wait_procs(processes, timeout=timeout)[1]]


def asked(serving, path, token=""):
    """Status and document of a GET."""
    request = urllib.request.Request(f"{serving.url}{path}", headers={"Authorization": f"Bearer {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def push_and_pull(serving, weights, folder):
    """Fails unless the same bytes come back."""
    with serving.client(cache=folder / "cache") as client:
        version = client.push(NAME, weights)
        client.pull(version, folder)
    assert (folder / weights.name).read_bytes() == weights.read_bytes()
    return version.ref


def pull_again(serving, reference, weights, folder):
    """The same bytes, without anything that was kept of them."""
    with serving.client(cache=folder / "cache") as client:
        client.pull(reference, folder, verify_file=True)
    assert (folder / weights.name).read_bytes() == weights.read_bytes()


def push_and_pull_by_commands(serving, weights, folder, **environ):
    """The same as a person does it, in processes that read their settings anew."""
    pushed = serving.command("push", NAME, str(weights), **environ)
    assert pushed.returncode == 0, pushed.stderr
    reference = pushed.stdout.strip()
    pulled = serving.command("pull", reference, "-o", str(folder), **environ)
    assert pulled.returncode == 0, pulled.stderr
    assert (folder / weights.name).read_bytes() == weights.read_bytes()
    return reference


# --- the first start ---


def test_a_fresh_home_is_ready_within_fifteen_seconds(stack):
    assert stack.took < 15
    assert asked(stack, "/readyz") == (200, {"status": "ok", "checks": {"database": "ok", "storage": "ok"}})


def test_home_and_secrets_are_for_their_owner_alone(stack):
    assert stack.home.stat().st_mode & 0o777 == 0o700
    secrets = {stack.home / "admin-token", stack.home / "seaweedfs.json", *(stack.home / "seals").glob("*")}
    assert {secret.name: oct(secret.stat().st_mode & 0o777) for secret in secrets} == {
        secret.name: "0o600" for secret in secrets
    }
    token, keys = stack.token, json.loads((stack.home / "seaweedfs.json").read_text())
    assert len(token) >= 20
    assert len(keys["identities"][0]["credentials"][0]["secretKey"]) >= 32


def test_the_first_start_prints_address_and_token_once(stack):
    assert stack.greeting.count(stack.url) == 1
    assert stack.greeting.count(stack.token) == 1
    assert asked(stack, "/api/v1/whoami", stack.token)[0] == 200


def test_no_secret_is_in_a_command_line_or_a_log(stack):
    secrets = [stack.token, json.loads((stack.home / "seaweedfs.json").read_text())["identities"][0]["credentials"][0]]
    for secret in (secrets[0], secrets[1]["secretKey"]):
        assert not [each.cmdline() for each in family(stack) if secret in " ".join(each.cmdline())]
        assert not [log.name for log in (stack.home / "logs").iterdir() if secret in log.read_text()]


# --- while it runs ---


def test_everything_listens_on_loopback_only(served):
    opened = listening(family(served))
    assert {port for _, port in opened} >= {served.port, served.s3_port}
    assert {address for address, _ in opened} == {"127.0.0.1"}


def test_a_second_serve_on_the_home_is_refused_with_one_line(served):
    pid, token = served.pid, served.token
    second = Serving(served.home.parent)
    second.launch()
    assert second.process is not None
    assert second.process.wait(20) == 1
    assert second.out == ""
    (line,) = second.err.splitlines()
    assert f"The home {served.home} is in use by process {pid}." in line
    assert line.endswith("[HOME_IN_USE]")
    assert asked(served, "/api/v1/whoami", token)[0] == 200


def test_the_api_stays_flat_and_the_store_capped_while_a_large_file_is_pushed(served, weights, tmp_path):
    push_and_pull(served, weights, tmp_path / "warm")  # what is loaded at first use is not the file's doing
    large = tmp_path / "large.safetensors"
    save_file({"w": np.frombuffer(os.urandom(256 * MIB), np.uint8)}, large)
    api, weed = of(served, "api"), of(served, "weed")
    assert len(api) >= 2
    assert len(weed) == 1

    def resident(processes):
        return sum(process.memory_info().rss for process in processes)

    before, peaks, done = resident(api), {"api": 0, "weed": 0}, threading.Event()

    def watch():
        while not done.wait(0.05):
            peaks["api"] = max(peaks["api"], resident(api))
            peaks["weed"] = max(peaks["weed"], resident(weed))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with served.client() as client:
            version = client.push("default/large", large)
            assert version.transfer.moved == large.stat().st_size
            client.pull(version, tmp_path / "back")
    finally:
        done.set()
        watcher.join()
    assert (tmp_path / "back/large.safetensors").read_bytes() == large.read_bytes()
    print(
        f"API {before / MIB:.0f} MiB, at most {(peaks['api'] - before) / MIB:+.1f}; store {peaks['weed'] / MIB:.0f} MiB"
    )
    assert peaks["api"] - before <= 32 * MIB
    assert peaks["weed"] <= 512 * MIB


def test_readyz_names_the_store_while_it_is_away_and_then_recovers(served, weights, tmp_path):
    reference = push_and_pull(served, weights, tmp_path / "before")
    (weed,) = of(served, "weed")
    weed.kill()
    until = time.monotonic() + 10
    while (answer := asked(served, "/readyz"))[0] == 200:
        assert time.monotonic() < until
    status, said = answer
    assert status == 503
    assert said["checks"]["database"] == "ok"
    assert "STORAGE" in said["checks"]["storage"]
    assert asked(served, "/healthz")[0] == 200
    until = time.monotonic() + 30
    while asked(served, "/readyz")[0] != 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    pull_again(served, reference, weights, tmp_path / "after")


# --- ends, and starts again ---


def test_ctrl_c_stops_all_and_the_next_start_continues(served, weights, tmp_path):
    reference = push_and_pull(served, weights, tmp_path / "before")
    processes = family(served)
    assert served.stop(signal.SIGINT) == 0
    assert gone(processes, timeout=2) == []
    token = served.token
    served.start()
    assert served.token == token
    assert served.out.count(served.url) == 1
    assert token not in served.out + served.err
    pull_again(served, reference, weights, tmp_path / "after")


def test_a_killed_parent_leaves_no_orphan_and_the_next_start_continues(served, weights, tmp_path):
    reference = push_and_pull(served, weights, tmp_path / "before")
    processes = family(served)
    assert served.stop(signal.SIGKILL) == -signal.SIGKILL
    assert gone(processes) == []
    served.start()
    pull_again(served, reference, weights, tmp_path / "after")


# --- other addresses, and TLS ---


def test_another_host_opens_api_and_gateway_and_nothing_else(other_address, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", other_address)
    with started(tmp_path / "serve", host=other_address) as serving:
        assert f"http://{other_address}:{serving.port}" in serving.out
        opened = {port for address, port in listening(family(serving)) if address != "127.0.0.1"}
        assert {address for address, _ in listening(family(serving))} == {"127.0.0.1", other_address}
        # The third is the gateway's control port, which takes only the certificate of this start (tests/embedded).
        assert opened >= {serving.port, serving.s3_port}
        assert len(opened) == 3
        reference = push_and_pull_by_commands(serving, weights, tmp_path / "pulled")
        name, _, number = reference.partition(":")
        path = f"/api/v1/models/{name}/versions/{number}/segments?artifact={weights.name}&urls=1"
        status, page = asked(serving, path, serving.token)
        assert status == 200
        assert page["items"]
        assert all(item["url"].startswith(f"http://{other_address}:{serving.s3_port}/") for item in page["items"])


def key_and_name(common_name):
    return ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def certificate(subject, issuer, *, authority):
    key, name = subject
    issuer_key, issuer_name = issuer
    now = datetime.now(UTC)
    local = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    usage = {
        name: name in ({"key_cert_sign", "crl_sign"} if authority else {"digital_signature"})
        for name in (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        )
    }
    builder = (
        x509.CertificateBuilder(issuer_name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.KeyUsage(**usage), critical=True)
    )
    if not authority:
        builder = builder.add_extension(local, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("kind", ["self-signed", "own authority"])
def test_tls_serves_api_and_gateway_and_clients_trust_it_by_one_variable(kind, weights, tmp_path):
    server, above = key_and_name("registry of this test"), key_and_name("authority of this test")
    by = server if kind == "self-signed" else above
    chain, key, trusted = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    chain.write_bytes(certificate(server, by, authority=False))
    key.write_bytes(
        server[0].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    trusted.write_bytes(chain.read_bytes() if by is server else certificate(above, above, authority=True))
    options = ["--tls-cert", str(chain), "--tls-key", str(key)]
    environ = {} if by is server else {"SSL_CERT_FILE": str(trusted)}
    with started(tmp_path / "serve", options=options, environ=environ) as serving:
        assert f"https://127.0.0.1:{serving.port}" in serving.out
        assert f"https://127.0.0.1:{serving.s3_port}" in serving.out
        stranger = serving.command("whoami", SSL_CERT_FILE="/dev/null")
        assert stranger.returncode == 1
        assert "[SERVER_UNREACHABLE]" in stranger.stderr
        reference = push_and_pull_by_commands(serving, weights, tmp_path / "pulled", SSL_CERT_FILE=str(trusted))
        assert reference == f"{NAME}:1"
