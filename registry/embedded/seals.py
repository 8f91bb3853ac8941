"""What lets the servers inside SeaweedFS trust one another and nobody else: certificates and keys of one start.

Its control ports know no users, and the gateway's listens wherever the gateway does. So each side of every control
connection must show a certificate of an authority whose key is forgotten as soon as it has signed one, and reads and
writes between the servers carry tokens.
"""

import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_SERVERS = ("MASTER", "VOLUME", "FILER", "S3", "CLIENT")
_YEARS = 10
_PEM = serialization.Encoding.PEM


def seal(folder: Path) -> dict[str, str]:
    """Make new certificates in `folder` and new token keys. Returns the settings that SeaweedFS reads them from."""
    folder.mkdir(mode=0o700, exist_ok=True)
    authority, certificate, key = _make()
    files = {"authority.pem": authority, "certificate.pem": certificate, "key.pem": key}
    for name, content in files.items():
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    settings = {"WEED_GRPC_CA": str(folder / "authority.pem")}
    for server in _SERVERS:
        settings[f"WEED_GRPC_{server}_CERT"] = str(folder / "certificate.pem")
        settings[f"WEED_GRPC_{server}_KEY"] = str(folder / "key.pem")
    for token in ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ"):
        settings[f"WEED_JWT_{token}_KEY"] = secrets.token_urlsafe(32)
    return settings


def _make() -> tuple[bytes, bytes, bytes]:
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _name("weight-registry embedded store")
    now = datetime.now(UTC)

    def signed(name: x509.Name, public: ec.EllipticCurvePublicKey, *, is_authority: bool) -> bytes:
        builder = (
            x509.CertificateBuilder(authority, name, public, x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=365 * _YEARS))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(_PEM)

    return (
        signed(authority, authority_key.public_key(), is_authority=True),
        signed(_name("server"), key.public_key(), is_authority=False),
        key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])
