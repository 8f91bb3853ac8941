"""SeaweedFS as a child process: an S3 store that checks signatures, checksums and conditions, on this machine.

It is four servers in one process. Only the S3 gateway knows rights (every request must be signed); master, volume and
filer know none, so they listen on loopback alone, whatever host the gateway is opened to.
"""

import http.client
import json
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from registry.domain.errors import LocalError
from registry.embedded.child import Child
from registry.embedded.home import Home
from registry.embedded.seals import seal

LOOPBACK = "127.0.0.1"
REGION = "us-east-1"
BUCKET = "weight-registry"
_INNER_PORTS = 7

# Without these the process grows to gigabytes; with them it idles at about 110 MB and stays under 400.
_MEMORY = {"GOMEMLIMIT": "400MiB", "GOGC": "50"}


class PortInUseError(LocalError):
    """A port that `registry serve` was to listen on is taken."""

    code = "PORT_IN_USE"
    remedy = "Stop what listens there, or choose another port."


class StartFailedError(LocalError):
    """A process of the embedded stack did not come up."""

    code = "START_FAILED"
    remedy = "Read its log in the home's `logs` folder."


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the S3 gateway listens, and with which certificate if any."""

    host: str
    port: int
    tls_cert: Path | None = None
    tls_key: Path | None = None


def start(home: Home, listen: Listen, *, environment: Mapping[str, str], keep: tuple[int, ...] = ()) -> Child:
    """Start SeaweedFS on `home.store`; `ready` says when it serves. Raises PortInUseError or StartFailedError."""
    require_free(listen.host, listen.port)
    home.credentials()
    ports = _inner_ports(home)
    return Child(
        "seaweedfs",
        [weed(), *_arguments(home, listen, ports)],
        environment={**environment, **_MEMORY, **seal(home.root / "seals")},
        log=home.logs / "seaweedfs.log",
        keep=keep,
        folder=home.store,
    )


def stop(child: Child) -> None:
    """End SeaweedFS. It is given a second: its graceful shutdown waits for its own subscriptions and never ends.

    Being killed costs nothing: what was acknowledged is with the operating system, and a start reads it as it is.
    """
    child.stop(grace_s=1.0)
    if child.folder is not None:
        _sweep(_kept_ports(child.folder))


def _inner_ports(home: Home) -> list[int]:
    """The seven ports behind the gateway: those of last time while they are free, else others.

    Folders of the master and sockets in /tmp are named after ports: keeping them leaves no litter.
    """
    ports = _kept_ports(home.store)
    _sweep(ports)
    if len(ports) == _INNER_PORTS and all(_is_free(LOOPBACK, port) for port in ports):
        return ports
    ports = free_ports(_INNER_PORTS)
    (home.store / "ports.json").write_text(json.dumps(ports))
    return ports


def _kept_ports(store: Path) -> list[int]:
    try:
        return [int(port) for port in json.loads((store / "ports.json").read_text())]
    except (OSError, ValueError, TypeError):
        return []


def _sweep(ports: list[int]) -> None:
    """Remove the sockets that it leaves behind when it is killed."""
    for port in ports:
        for leftover in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - where SeaweedFS puts them
            with suppress(OSError):
                leftover.unlink()


def _arguments(home: Home, listen: Listen, ports: list[int]) -> list[str]:
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc = ports
    tls = [f"-s3.cert.file={listen.tls_cert}", f"-s3.key.file={listen.tls_key}"] if listen.tls_cert else []
    return [
        "-logtostderr=true",  # Only there: by default it also fills the temporary folder.
        "server",
        f"-dir={home.store}",
        # There is one master, which is told so: else it looks for others first, and the volume server, which asks
        # once for a leader and then sleeps for five seconds, may ask too early.
        "-master.peers=none",
        "-master.electionTimeout=500ms",
        "-master.heartbeatInterval=100ms",
        "-master.telemetry=false",  # On by default: it would report to its makers once 10 GiB are stored.
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-master.port={master}",
        f"-master.port.grpc={master_grpc}",
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        "-filer",
        f"-filer.port={filer}",
        f"-filer.port.grpc={filer_grpc}",
        f"-filer.localSocket={home.root / 'filer.sock'}",
        "-s3",
        f"-s3.ip.bind={listen.host}",
        f"-s3.port={listen.port}",
        f"-s3.port.grpc={s3_grpc}",
        f"-s3.localSocket={home.root / 's3.sock'}",
        f"-s3.config={home.store_config}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
        "-volume.id=registry",  # The ports change from start to start; what the master knows it by must not.
        "-volume.max=0",
        "-volume.minFreeSpace=512MiB",  # The last resort: the registry itself refuses uploads well before.
        "-volume.readBufferSizeMB=1",  # A tenth less CPU for each byte read than the default 4, and less memory.
        "-volume.preStopSeconds=0",
        "-master.volumeSizeLimitMB=1024",
        *tls,
    ]


def ready(home: Home, child: Child, listen: Listen, *, timeout_s: float = 20.0) -> None:
    """Wait until the gateway answers and has what it needs to serve: it answers before that.

    Raises StartFailedError if it ends first or the time is over.
    """
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if child.exit_code() is not None:
            raise StartFailedError(f"SeaweedFS ended while starting: {child.last_words(3)}")
        if _answers(listen) and _has_volumes(home):
            return
        time.sleep(0.05)
    raise StartFailedError(f"SeaweedFS did not answer within {timeout_s:.0f} s.")


def _answers(listen: Listen) -> bool:
    host = reachable(listen.host)
    try:
        if listen.tls_cert:
            with socket.create_connection((host, listen.port), timeout=1):
                return True
        connection = http.client.HTTPConnection(host, listen.port, timeout=1)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        connection.close()
    except (OSError, http.client.HTTPException):
        return False
    return answer.status == http.HTTPStatus.OK


def _has_volumes(home: Home) -> bool:
    """True once the master knows the volume server; until then every read and write would fail."""
    try:
        (master, *_) = json.loads((home.store / "ports.json").read_text())
        connection = http.client.HTTPConnection(LOOPBACK, master, timeout=1)
        connection.request("GET", "/dir/status")
        topology = json.loads(connection.getresponse().read())["Topology"]
        connection.close()
    except (OSError, http.client.HTTPException, ValueError, LookupError):
        return False
    return bool(topology["DataCenters"])


def reachable(host: str) -> str:
    """The address at which this machine reaches what listens on `host`."""
    return {"0.0.0.0": LOOPBACK, "": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def weed() -> str:
    """Path of the SeaweedFS program. Raises StartFailedError."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise StartFailedError("The program `weed` is missing.", remedy="Install `weight-registry[server]`.")
    return found


def require_free(host: str, port: int) -> None:
    """Raise PortInUseError if nothing new can listen on this address."""
    try:
        _bind(host, port)
    except OSError as error:
        raise PortInUseError(f"Port {port} on {host} cannot be used: {error.strerror or error}.") from error


def _is_free(host: str, port: int) -> bool:
    try:
        _bind(host, port)
    except OSError:
        return False
    return True


def _bind(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nothing listens on, all different."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
