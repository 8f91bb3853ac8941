"""Outbound requests for users, against real sockets. A canary listens on loopback: nothing may connect to it."""

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import closing, contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from registry import egress
from registry.domain.targets import Allowed, TargetRefusedError
from registry.egress import TargetUnreachableError

LOOPBACK = Allowed.of(["127.0.0.1"])


class Server:
    """Accepts on a port of loopback and answers each connection with `reply(connection)`."""

    def __init__(self, reply=None, address="127.0.0.1", tls=None):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listener = socket.create_server((address, 0), family=family)
        self.port = self.listener.getsockname()[1]
        self.reply, self.tls, self.received = reply, tls, []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with closing(connection):
                try:
                    if self.tls:
                        connection = self.tls.wrap_socket(connection, server_side=True)
                    self.received.append(connection.recv(65536) if self.reply else b"")
                    if self.reply:
                        self.reply(connection)
                except OSError:
                    pass
                finally:
                    connection.close()

    def close(self):
        self.listener.close()


@contextmanager
def server(reply=None, **more):
    with closing(Server(reply, **more)) as found:
        yield found


def says(text):
    return lambda connection: connection.sendall(text.encode())


def post(url, *, allowed=LOOPBACK, **more):
    return egress.post(url, b'{"a":1}', {"webhook-id": "msg_1"}, allowed=allowed, **more)


def to(*addresses):
    return lambda _host, _port: list(addresses)


@pytest.fixture(scope="module")
def canary():
    """Listens on every loopback address there is here, on one port."""
    with server() as four:
        listener = socket.create_server(("::1", four.port), family=socket.AF_INET6)
        with closing(listener):
            yield four, listener


def test_a_request_says_what_it_must_and_its_status_comes_back():
    with server(says("HTTP/1.1 204 No Content\r\n\r\n")) as receiver:
        assert post(f"http://127.0.0.1:{receiver.port}/hook?x=1") == 204
    head, _, body = receiver.received[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST /hook?x=1 HTTP/1.1"
    assert f"Host: 127.0.0.1:{receiver.port}".encode() in head
    assert b"webhook-id: msg_1" in head
    assert b"Content-Length: 7" in head
    assert body == b'{"a":1}'


LITERALS = [
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0x0.0x0.0x1",
    "017700000001", "0177.0.0.1", "0177.0.0.01", "00000000177.0.0.1", "127.0.0.1.", "0", "0.0.0.0", "0x0",
    "000.000.000.000",
    "[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001:0:0:0:0:0:80ff:fffe]", "[fe80::1]",
    "[fe80::1%25lo]", "[::1%25lo]", "localhost", "LOCALHOST", "localhost.", "ip6-localhost", "user@127.0.0.1",
    "example.com@127.0.0.1", "example.com:443@127.0.0.1", "127.0.0.1#.example.com", "127.0.0.1\\@example.com",
    "127.0.0.1%00.example.com", "%31%32%37.0.0.1", "１２７.0.0.1", "①②⑦.0.0.1", "127。0。0。1", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "[::ⅰ]",
]  # fmt: skip
NAMES = [
    ("127.0.0.1",), ("::1",), ("0.0.0.0",), ("::",), ("::ffff:127.0.0.1",), ("::127.0.0.1",), ("64:ff9b::7f00:1",),
    ("2002:7f00:1::",), ("127.0.0.2", "127.0.0.3"), ("169.254.169.254",), ("10.0.0.1", "::1"), ("fe80::1%lo",),
    ("::ffff:0:7f00:1",),
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("allowed", [(), ("10.77.0.0/16", "hooks.corp.example")])
def test_sixty_hostile_targets_reach_no_canary(canary, scheme, allowed):
    four, six = canary
    urls = [(f"{scheme}://{host}:{four.port}/", to("127.0.0.1")) for host in LITERALS]
    urls += [(f"{scheme}://rebound.example:{four.port}/", to(*addresses)) for addresses in NAMES]
    assert len(urls) >= 60
    for url, resolve in urls:
        with pytest.raises(TargetRefusedError):
            post(url, allowed=Allowed.of(allowed), resolve=resolve)
    time.sleep(0.05)
    six.settimeout(0.05)
    assert four.received == []
    with pytest.raises(TimeoutError):
        six.accept()


def test_a_name_that_means_something_else_when_asked_again_is_asked_once(canary):
    four, _ = canary
    answers = iter([["203.0.114.1"], ["127.0.0.1"], ["127.0.0.1"]])
    with pytest.raises(TargetUnreachableError):  # the first answer is what is connected to, and nobody is there
        post(
            f"https://rebound.example:{four.port}/",
            allowed=Allowed(),
            resolve=lambda _host, _port: next(answers),
            time_limit_s=0.3,
        )
    assert next(answers) == ["127.0.0.1"]
    assert four.received == []


def test_of_several_addresses_only_those_that_may_be_called_are(canary):
    four, _ = canary
    with server(says("HTTP/1.1 200 OK\r\n\r\n"), address="127.0.0.1") as receiver:
        resolve = to("127.0.0.2", "::1", "127.0.0.1")
        assert post(f"http://hooks.example:{receiver.port}/", resolve=resolve) == 200
    assert four.received == []


def test_an_address_that_does_not_answer_gives_way_to_the_next():
    with server(says("HTTP/1.1 200 OK\r\n\r\n"), address="127.0.0.1") as receiver:
        allowed = Allowed.of(["127.0.0.0/8"])
        assert (
            post(f"http://hooks.example:{receiver.port}/", allowed=allowed, resolve=to("127.0.0.9", "127.0.0.1")) == 200
        )


def test_a_redirect_is_an_answer_and_not_followed(canary):
    four, _ = canary
    for status in (301, 302, 303, 307, 308):
        with server(says(f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:{four.port}/\r\n\r\n")) as receiver:
            assert post(f"http://127.0.0.1:{receiver.port}/") == status
    assert four.received == []


def test_a_proxy_of_the_environment_is_not_used(canary, monkeypatch):
    four, _ = canary
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{four.port}")
    with server(says("HTTP/1.1 200 OK\r\n\r\n")) as receiver:
        assert post(f"http://127.0.0.1:{receiver.port}/") == 200
    assert four.received == []


def drip(connection):
    while True:
        connection.sendall(b"H")
        time.sleep(0.02)


def drip_headers(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X: y\r\n")
        time.sleep(0.05)


def silent(_connection):
    time.sleep(2)


@pytest.mark.parametrize("reply", [drip, drip_headers, silent])
def test_however_slowly_an_answer_drips_it_ends_in_time(reply):
    with server(reply) as receiver:
        began = time.monotonic()
        with pytest.raises(TargetUnreachableError, match=r"within 0\.4 s"):
            post(f"http://127.0.0.1:{receiver.port}/", time_limit_s=0.4)
        assert time.monotonic() - began < 1.5


def test_a_body_that_drips_or_never_ends_is_cut_and_the_status_counts():
    sent = []

    def slow(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        drip(connection)

    def huge(connection):
        connection.sendall(b"HTTP/1.1 503 Busy\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)
            sent.append(65536)

    with server(slow) as receiver:
        began = time.monotonic()
        assert post(f"http://127.0.0.1:{receiver.port}/", time_limit_s=0.4) == 200
        assert time.monotonic() - began < 1.5
    with server(huge) as receiver:
        assert post(f"http://127.0.0.1:{receiver.port}/") == 503
        receiver.thread.join(0.2)
        assert sum(sent) < 20 * 1024 * 1024  # what fits in the kernel's buffers


@pytest.mark.parametrize("reply", ["", "SSH-2.0-OpenSSH_9.9\r\n", "HTTP/1.1 abc\r\n\r\n", "X" * 100_000])
def test_what_is_not_http_is_no_answer(reply):
    with server(says(reply)) as receiver, pytest.raises(TargetUnreachableError, match=r"not HTTP|connection fails"):
        post(f"http://127.0.0.1:{receiver.port}/")


def test_headers_without_end_are_cut():
    with server(says("HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 30_000)) as receiver, pytest.raises(TargetUnreachableError):
        post(f"http://127.0.0.1:{receiver.port}/")


def test_a_resolver_that_hangs_or_fails_is_no_longer_waited_for():
    def hang(_host, _port):
        time.sleep(1.5)
        return ["127.0.0.1"]

    def fail(_host, _port):
        raise socket.gaierror(-2, "Name or service not known")

    began = time.monotonic()
    with pytest.raises(TargetUnreachableError, match=r"within 0\.2 s"):
        post("https://example.com/", allowed=Allowed(), resolve=hang, time_limit_s=0.2)
    assert time.monotonic() - began < 1
    with pytest.raises(TargetUnreachableError, match="has no address"):
        post("https://example.com/", allowed=Allowed(), resolve=fail)


def test_a_port_where_nobody_listens_is_unreachable():
    with socket.socket() as taken:  # so that nobody else listens there meanwhile
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(TargetUnreachableError, match="refused"):
            post(f"http://127.0.0.1:{taken.getsockname()[1]}/")


@pytest.fixture
def certified(tmp_path, monkeypatch):
    """A certificate for hooks.example that this process trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example")])
    today = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("hooks.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.9"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "trusted.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    egress._trust.cache_clear()
    yield context
    egress._trust.cache_clear()


def test_tls_is_to_the_name_although_the_connection_is_to_the_address(certified):
    asked = []
    certified.sni_callback = lambda _connection, name, _context: asked.append(name)
    with server(says("HTTP/1.1 200 OK\r\n\r\n"), tls=certified) as receiver:
        assert post(f"https://hooks.example:{receiver.port}/", resolve=to("127.0.0.1")) == 200
        assert asked == ["hooks.example"]
        assert f"Host: hooks.example:{receiver.port}".encode() in receiver.received[0]
        with pytest.raises(TargetUnreachableError, match="TLS fails: Hostname mismatch"):
            post(f"https://other.example:{receiver.port}/", resolve=to("127.0.0.1"))


def test_a_certificate_that_nobody_here_trusts_is_refused(certified, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    egress._trust.cache_clear()
    with server(says("HTTP/1.1 200 OK\r\n\r\n"), tls=certified) as receiver:
        with pytest.raises(TargetUnreachableError, match="TLS fails"):
            post(f"https://hooks.example:{receiver.port}/", resolve=to("127.0.0.1"))
        assert receiver.received == []


def test_a_receiver_that_does_not_speak_tls_or_says_nothing_ends_in_time():
    with server(says("HTTP/1.1 200 OK\r\n\r\n")) as receiver, pytest.raises(TargetUnreachableError):
        post(f"https://hooks.example:{receiver.port}/", resolve=to("127.0.0.1"))
    with server(silent) as receiver, pytest.raises(TargetUnreachableError, match="within"):
        post(f"https://hooks.example:{receiver.port}/", resolve=to("127.0.0.1"), time_limit_s=0.3)


def test_the_system_s_resolver_is_the_one_that_is_asked():
    assert "127.0.0.1" in egress.resolve("localhost", 80)
