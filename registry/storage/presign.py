"""Presigned S3 requests (AWS Signature Version 4 in the query), without a request of our own and without boto3.

A push of a large model needs tens of thousands of signatures, and the general-purpose signer costs most of a
millisecond each. The signing key changes once a day, so it is kept; what remains are two hashes.
Everything that is signed is enforced by the store: method, host, key, query, and the value of every header given.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signs. `token` is the session token of temporary credentials (roles), and travels in the URL."""

    access_key: str
    secret_key: str
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where signed requests go: scheme and host (with a port unless it is the scheme's own), path before the key."""

    scheme: str
    host: str
    prefix: str
    region: str


def presign(
    target: Target,
    identity: Identity,
    *,
    method: str,
    key: str,
    headers: Mapping[str, str],
    expires: int,
    at: datetime,
    query: Mapping[str, str] = _NOTHING,
) -> str:
    """A URL good for exactly this method, key, query and these headers (lower-case names).

    It is valid from `at` for `expires` seconds.
    """
    day, stamp = f"{at:%Y%m%d}", f"{at:%Y%m%dT%H%M%SZ}"
    scope = f"{day}/{target.region}/s3/aws4_request"
    path = quote(f"{target.prefix}/{key}", safe="/~")
    signed = sorted({"host": target.host, **headers}.items())
    names = ";".join(name for name, _ in signed)
    parameters = dict(query) | {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{identity.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(expires),
        "X-Amz-SignedHeaders": names,
    }
    if identity.token:
        parameters["X-Amz-Security-Token"] = identity.token
    asked = "&".join(f"{name}={quote(value, safe='~')}" for name, value in sorted(parameters.items()))
    lines = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in signed)
    canonical = f"{method}\n{path}\n{asked}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
    text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(_key(identity.secret_key, day, target.region), text.encode(), sha256).hexdigest()
    return f"{target.scheme}://{target.host}{path}?{asked}&X-Amz-Signature={signature}"


@lru_cache(maxsize=8)
def _key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), sha256)
    return key
