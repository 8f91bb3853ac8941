"""The bucket: the only module that knows boto3. Control requests and signatures; weight bytes go by `transfer`.

Uploads and downloads of weights are made by clients with URLs signed here. What the vendor's library raises is
narrowed by code to three errors of ours; anything else propagates: it is a bug or a misconfiguration.
"""

import base64
import binascii
import http.client
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config as VendorConfig
from botocore.exceptions import (
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as VendorConnectionError,
)
from botocore.httpsession import get_cert_path
from botocore.session import Session as VendorSession

from registry.domain.errors import ExhaustedError, NotFoundError, UnavailableError
from registry.storage.durability import Flusher
from registry.storage.multipart import Multipart
from registry.storage.presign import Identity, Target, presign
from registry.storage.transfer import Abort, RefusedError, ShortError, Transfers

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Result = TypeVar("Result")

_HEADS_AT_ONCE = 8
_MISSING = {"404", "NoSuchKey", "NotFound", "NoSuchUpload"}
_FULL = {"InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull", "507"}
_UNAVAILABLE = {"NoSuchBucket", "SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError"}
_NOT_FOUND, _NOT_SATISFIABLE, _SERVER_ERROR = 404, 416, 500
# Free bytes below which a store on this machine takes no more uploads. It would take them for longer, but reclaiming
# deleted objects needs room to rewrite what is kept, and a store that is quite full can no longer do that.
_LOCAL_RESERVE = 2 << 30
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OWN_URL_S = 900
"""How long a URL is valid that the server signs for itself, and uses at once."""
_PAUSES = (0.2, 1.0)
"""Seconds before each repetition of a transfer that failed."""


class ObjectMissingError(NotFoundError):
    """The store holds no object under this key."""

    code = "OBJECT_MISSING"
    remedy = "Push the version again; what the store still has does not move."


class StorageUnavailableError(UnavailableError):
    """The object store cannot be reached, or answers that it cannot serve."""

    code = "STORAGE_UNAVAILABLE"
    remedy = "Try again in a moment; if it persists, check the S3 endpoint and its bucket."


class StorageFullError(ExhaustedError):
    """The object store has no room for more bytes."""

    code = "STORAGE_FULL"
    remedy = "The operator must free or add space in the object store; then repeat the push: only the rest moves."


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where the bucket is. Without an access key boto3's own chain is used (profile, container or instance role).

    `public_endpoint_url` is what clients reach, if that differs. `local_path` is set only where the store keeps its
    files on this machine and acknowledges before they are on disk; see `Store.settle`. `ca_bundle` is a file of
    authorities to trust instead of the usual ones (boto3 also reads AWS_CA_BUNDLE).
    """

    bucket: str
    endpoint_url: str | None = None
    public_endpoint_url: str | None = None
    region: str = "us-east-1"
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    local_path: Path | None = None
    ca_bundle: str | None = None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the store says of an object. `sha256` (hex) is None if the store has no checksum of the whole object."""

    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class SignedPut:
    """One upload that the store will accept: this URL with exactly these headers, each of them signed."""

    url: str
    headers: dict[str, str]


class Store:
    """One bucket. Safe to share between threads; opens no connection until it is used."""

    def __init__(self, config: StoreConfig) -> None:
        """Keep the configuration; credentials are looked up at first use."""
        self.config = config
        self._flusher = Flusher(config.local_path) if config.local_path else None
        self._transfers = Transfers(lambda: config.ca_bundle or str(get_cert_path(verify=True)))

    # Signing

    def presign_put(self, key: str, *, sha256: str, size: int, expires: int) -> SignedPut:
        """Sign the upload of the `size` bytes with this sha256 (hex) under a key that must not exist yet."""
        headers = {
            "content-length": str(size),
            "if-none-match": "*",
            "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode(),
        }
        return SignedPut(self._sign(self._public, "PUT", key, headers, expires), headers)

    def presign_get(self, key: str, *, expires: int) -> str:
        """Sign the download of one object; `Range` may be added freely, HEAD is not covered."""
        return self._sign(self._public, "GET", key, {}, expires)

    def _sign(self, target: Target, method: str, key: str, headers: dict[str, str], expires: int, **query: str) -> str:
        return presign(
            target,
            self._identity(),
            method=method,
            key=key,
            headers=headers,
            expires=expires,
            at=datetime.now(UTC),
            query=query,
        )

    # Objects

    def head(self, key: str) -> StoredObject:
        """Size and sha256 of an object, as the store recorded them when it took the bytes in.

        An upload through `presign_put` cannot have been accepted unless its bytes had the signed sha256, and the store
        repeats that checksum here. So: `sha256` equal to the expected one means the right bytes arrived. It does not
        mean that they are still right (that takes reading them: scrub), and None means that the store keeps no
        whole-object checksum, as for multipart uploads: then nothing is known but the size.

        Raises ObjectMissingError or StorageUnavailableError.
        """
        with self._narrowed(key):
            found = self._client.head_object(Bucket=self.config.bucket, Key=key, ChecksumMode="ENABLED")
        return StoredObject(found["ContentLength"], _plain_sha256(found.get("ChecksumSHA256")))

    def head_many(self, keys: Iterable[str]) -> dict[str, StoredObject]:
        """`head` of each key, several at a time; missing ones are absent. Raises StorageUnavailableError."""
        wanted = list(dict.fromkeys(keys))
        with ThreadPoolExecutor(_HEADS_AT_ONCE, thread_name_prefix="head") as pool:
            found = zip(wanted, pool.map(self._head_or_none, wanted), strict=True)
            return {key: stored for key, stored in found if stored is not None}

    def _head_or_none(self, key: str) -> StoredObject | None:
        try:
            return self.head(key)
        except ObjectMissingError:
            return None

    def read(self, key: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`, fewer at the object's end.

        Raises ObjectMissingError or StorageUnavailableError.
        """
        if size == 0:
            return b""
        with self._narrowed(key):
            try:
                asked = f"bytes={offset}-{offset + size - 1}"
                body = self._client.get_object(Bucket=self.config.bucket, Key=key, Range=asked)["Body"]
            except ClientError as error:
                if _code(error) == "InvalidRange":
                    return b""
                raise
            with body:
                return b"".join(body.iter_chunks(1 << 20))

    def read_into(self, key: str, view: memoryview, *, offset: int = 0, abort: Abort | None = None) -> None:
        """Fill a writable view with the object's bytes from `offset`: cheaper than `read`, and nothing is copied.

        Raises ObjectMissingError, also if the object ends before the view does, or StorageUnavailableError; and
        ConnectionAbortedError once `abort` is set. What the view holds then is unknown.
        """
        if not view:
            return
        given_up = abort or Abort()

        def fill() -> None:
            url = self._sign(self._own, "GET", key, {}, _OWN_URL_S)
            self._transfers.get(url, view, offset=offset, abort=given_up)

        self._repeated(key, fill, given_up)

    def _repeated(self, key: str, transfer: Callable[[], Result], abort: Abort) -> Result:
        """The transfer, repeated where that may help, as boto3 repeats its own; what remains of errors is narrowed."""
        for pause in (*_PAUSES, None):
            try:
                return transfer()
            except ShortError as error:
                raise ObjectMissingError(f"The object {key} is shorter than it was.", key=key) from error
            except RefusedError as error:
                if error.status == _NOT_SATISFIABLE or error.code in _MISSING or error.status == _NOT_FOUND:
                    raise ObjectMissingError(f"The object store has no object {key}.", key=key) from error
                if error.code in _FULL:
                    raise StorageFullError("The object store has no room left.") from error
                passing = error.status >= _SERVER_ERROR or error.code in _UNAVAILABLE
                if pause is None or not passing:
                    raise StorageUnavailableError(f"The object store answered {error} for {key}.") from error
            except (OSError, http.client.HTTPException) as error:
                abort.check()
                if pause is None:
                    raise StorageUnavailableError("The object store cannot be reached.") from error
            time.sleep(pause)
        raise AssertionError  # the last round returns or raises

    @cached_property
    def multipart(self) -> Multipart:
        """Uploads in parts."""

        def put(
            key: str, query: Mapping[str, str], headers: dict[str, str], data: memoryview, abort: Abort
        ) -> Mapping[str, str]:
            def send() -> Mapping[str, str]:
                url = self._sign(self._own, "PUT", key, headers, _OWN_URL_S, **query)
                return self._transfers.put(url, headers, data, abort=abort)

            return self._repeated(key, send, abort)

        return Multipart(self._client, self.config.bucket, put=put, narrowed=self._narrowed)

    def copy(self, source: str, target: str) -> None:
        """Copy inside the store; no bytes come here and the checksum stays known. An existing target is left alone.

        Raises ObjectMissingError (of the source), StorageUnavailableError or StorageFullError.
        """
        bucket = self.config.bucket
        with self._narrowed(source):
            try:
                self._client.copy_object(
                    Bucket=bucket,
                    Key=target,
                    CopySource={"Bucket": bucket, "Key": source},
                    ChecksumAlgorithm="SHA256",
                    IfNoneMatch="*",
                )
            except ClientError as error:
                if _code(error) != "PreconditionFailed":
                    raise

    def put(self, key: str, data: bytes, sha256: str) -> None:
        """Store a small object that the server itself made, replacing what was there; the store checks the sha256.

        Raises StorageUnavailableError or StorageFullError.
        """
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        with self._narrowed(key):
            self._client.put_object(Bucket=self.config.bucket, Key=key, Body=data, ChecksumSHA256=checksum)

    def delete(self, key: str) -> None:
        """Delete an object; deleting what is not there is no error. Raises StorageUnavailableError."""
        with self._narrowed(key):
            self._client.delete_object(Bucket=self.config.bucket, Key=key)

    # The bucket itself

    def settle(self) -> None:
        """Return once every object acknowledged so far would survive a power cut.

        A real S3 promises that with its acknowledgement, and nothing is done here. The embedded store acknowledges when
        the operating system has the bytes, so its changed files are flushed: one flush for many objects, which is why
        it stands before the publishing transaction and not in every upload. Raises OSError if the disk refuses.
        """
        if self._flusher is not None:
            self._flusher.flush()

    def ping(self) -> None:
        """Make one short request to the bucket. Raises StorageUnavailableError unless it exists and we may use it."""
        with self._narrowed(self.config.bucket):
            try:
                self._pinger.head_bucket(Bucket=self.config.bucket)
            except ClientError as error:
                message = f"The object store answered {_code(error)} for the bucket {self.config.bucket}."
                raise StorageUnavailableError(message) from error

    def ensure_bucket(self) -> None:
        """Create the bucket unless it exists. Raises StorageUnavailableError."""
        bucket, region = self.config.bucket, self.config.region
        with self._narrowed(bucket):
            try:
                self._client.head_bucket(Bucket=bucket)
            except ClientError as error:
                if _code(error) not in _MISSING | {"NoSuchBucket"}:
                    raise
            else:
                return
            elsewhere = self.config.endpoint_url is None and region != "us-east-1"
            place: dict[str, Any] = {"CreateBucketConfiguration": {"LocationConstraint": region}} if elsewhere else {}
            try:
                self._client.create_bucket(Bucket=bucket, **place)
            except ClientError as error:
                if _code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                    raise

    def require_room(self, size: int) -> None:
        """Raise StorageFullError if `size` more bytes would not fit. A store elsewhere says so itself, when asked."""
        path = self.config.local_path
        if path is not None and shutil.disk_usage(path).free - size < _LOCAL_RESERVE:
            raise StorageFullError("The disk of the object store has too little room left.")

    # Errors, connections and credentials

    @contextmanager
    def _narrowed(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in _MISSING:
                raise ObjectMissingError(f"The object store has no object {key}.", key=key) from error
            if code in _FULL:
                raise StorageFullError("The object store has no room left.") from error
            if code in _UNAVAILABLE or status >= _SERVER_ERROR:
                self.require_room(0)  # SeaweedFS calls a full disk an internal error.
                raise StorageUnavailableError(f"The object store answered {code} for {key}.") from error
            raise
        except (VendorConnectionError, HTTPClientError, IncompleteReadError) as error:
            raise StorageUnavailableError("The object store cannot be reached.") from error

    @cached_property
    def _session(self) -> boto3.Session:
        config = self.config
        # Keys that are given stand alone: a profile that the environment names is another account's.
        alone = {"profile": (None, None, None, None)} if config.access_key else None
        return boto3.Session(
            config.access_key,
            config.secret_key,
            config.session_token,
            region_name=config.region,
            botocore_session=VendorSession(session_vars=alone),
        )

    @cached_property
    def _client(self) -> "S3Client":
        return self._connect(connect_timeout=3, read_timeout=60, attempts=3)

    @cached_property
    def _pinger(self) -> "S3Client":
        return self._connect(connect_timeout=1, read_timeout=2, attempts=1)

    def _connect(self, *, connect_timeout: float, read_timeout: float, attempts: int) -> "S3Client":
        vendor = VendorConfig(
            signature_version="s3v4",
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=32,
            tcp_keepalive=True,
            # Checksums are signed where they matter; the vendor's own CRC32 in every request breaks other stores.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if self.config.endpoint_url else "auto"},
        )
        trusted = self.config.ca_bundle
        return self._session.client("s3", endpoint_url=self.config.endpoint_url, config=vendor, verify=trusted)

    def _identity(self) -> Identity:
        # Asked for each time, from memory: temporary credentials are renewed underneath.
        found = self._credentials.get_frozen_credentials()
        return Identity(str(found.access_key), str(found.secret_key), found.token)

    @cached_property
    def _credentials(self) -> Any:
        found = self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        return found

    @cached_property
    def _public(self) -> Target:
        return self._target(self.config.public_endpoint_url or self.config.endpoint_url)

    @cached_property
    def _own(self) -> Target:
        return self._target(self.config.endpoint_url)

    def _target(self, endpoint_url: str | None) -> Target:
        config = self.config
        parts = urlsplit(endpoint_url or self._client.meta.endpoint_url)
        host = str(parts.hostname)
        if ":" in host:
            host = f"[{host}]"
        if parts.port not in {None, _DEFAULT_PORTS.get(parts.scheme)}:
            host = f"{host}:{parts.port}"
        path = parts.path.rstrip("/")
        if endpoint_url is None and "." not in config.bucket:
            return Target(parts.scheme, f"{config.bucket}.{host}", path, config.region)
        return Target(parts.scheme, host, f"{path}/{config.bucket}", config.region)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _plain_sha256(checksum: str | None) -> str | None:
    # A multipart upload's checksum is a hash of hashes and ends in `-<parts>`: not the sha256 of any bytes.
    if checksum is None or "-" in checksum:
        return None
    try:
        return base64.b64decode(checksum, validate=True).hex()
    except binascii.Error:
        return None
