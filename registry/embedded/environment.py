"""What the processes of the stack are told: the environment they start with, and the addresses in it."""

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.embedded.home import Home
from registry.embedded.seaweed import BUCKET, REGION, Listen, reachable

_ANY = {"0.0.0.0", "::", ""}  # noqa: S104 - compared, not bound
_SOMEWHERE = ("192.0.2.1", 9)  # reserved for documentation: nothing is sent, the kernel only picks a route


@dataclass(frozen=True, slots=True)
class Stack:
    """The environment of API and worker, and whether the embedded store is part of the stack."""

    environment: dict[str, str]
    embedded_store: bool


def compose(home: Home, listen: Listen, environ: Mapping[str, str]) -> Stack:
    """Fill in what the environment leaves open. A database or an S3 that is named there is used as it is."""
    environment = dict(environ)
    environment.setdefault("REGISTRY_HOME", str(home.root))
    environment.setdefault("PYTHONUNBUFFERED", "1")
    if not environment.get("REGISTRY_DATABASE_URL"):
        environment["REGISTRY_DATABASE_URL"] = home.database_url
    if not environment.get("REGISTRY_ADMIN_TOKEN"):
        environment["REGISTRY_ADMIN_TOKEN"] = home.admin_token()
    if environment.get("REGISTRY_S3_ENDPOINT_URL") or environment.get("REGISTRY_S3_BUCKET"):
        return Stack(environment, embedded_store=False)
    # The store is ours and so are its keys: whatever else the user's environment says of AWS means another one.
    environment = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    keys = home.credentials()
    public = environment.get("REGISTRY_S3_PUBLIC_ENDPOINT_URL") or endpoint(listen, public_host(listen.host))
    # A certificate names the public host, so with TLS the server too has to call the store by it.
    own = public if listen.tls_cert else endpoint(listen, reachable(listen.host))
    if listen.tls_cert:
        environment["AWS_CA_BUNDLE"] = str(_trusting(home, listen.tls_cert, environ.get("AWS_CA_BUNDLE")))
    environment |= {
        "REGISTRY_S3_BUCKET": BUCKET,
        "REGISTRY_S3_ENDPOINT_URL": own,
        "REGISTRY_S3_PUBLIC_ENDPOINT_URL": public,
        "REGISTRY_S3_LOCAL_PATH": str(home.store),
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
    }
    return Stack(environment, embedded_store=True)


def endpoint(listen: Listen, host: str) -> str:
    """A URL of the gateway."""
    scheme = "https" if listen.tls_cert else "http"
    return f"{scheme}://{bracketed(host)}:{listen.port}"


def bracketed(host: str) -> str:
    """A host as URLs write it."""
    return f"[{host}]" if ":" in host else host


def public_host(host: str) -> str:
    """The address under which others reach `host`: itself, or the machine's primary address if it means all of them."""
    if host not in _ANY:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_SOMEWHERE)
        except OSError:
            return reachable(host)
        return str(probe.getsockname()[0])


def _trusting(home: Home, certificate: Path, given: str | None) -> Path:
    # The usual authorities, and the certificate itself in case it is signed by none of them.
    usual = given or ssl.get_default_verify_paths().cafile
    known = Path(usual).read_text() if usual else ""
    bundle = home.root / "trusted.pem"
    bundle.write_text(f"{known}\n{certificate.read_text()}")
    return bundle
