import hashlib
import os
import socket
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from registry.embedded import seaweed
from registry.embedded.environment import compose
from registry.embedded.home import Home
from registry.embedded.seaweed import Listen, PortInUseError
from registry.embedded.supervisor import _store


@pytest.fixture
def certificate(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    encoding, none = serialization.Encoding.PEM, serialization.NoEncryption()
    paths[0].write_bytes(signed.public_bytes(encoding))
    paths[1].write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, none))
    return paths


def test_with_a_certificate_the_gateway_speaks_tls_to_clients_and_server_alike(tmp_path, certificate):
    home = Home.open(tmp_path / "home")
    listen = Listen("localhost", seaweed.free_ports(1)[0], *certificate)
    told = compose(home, listen, os.environ).environment
    assert told["REGISTRY_S3_ENDPOINT_URL"] == f"https://localhost:{listen.port}"
    child = seaweed.start(home, listen, environment=told)
    try:
        seaweed.ready(home, child, listen)
        store = _store(told)
        store.ensure_bucket()
        store.put("ns/1/aa/k", b"x", hashlib.sha256(b"x").hexdigest())
        assert store.read("ns/1/aa/k", 0, 1) == b"x"
        assert store.presign_get("ns/1/aa/k", expires=5).startswith(f"https://localhost:{listen.port}/")
    finally:
        seaweed.stop(child)


def test_the_inner_ports_stay_and_move_only_when_one_is_taken(tmp_path):
    home = Home.open(tmp_path / "home")
    first = seaweed._inner_ports(home)
    assert len(set(first)) == 7
    assert seaweed._inner_ports(home) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first[3]))
        taken.listen()
        with pytest.raises(PortInUseError):
            seaweed.require_free("127.0.0.1", first[3])
        assert seaweed._inner_ports(home) != first
