"""Every setting of the server and the client, read from the environment once, here and nowhere else.

Each field's metadata names its variable and says what it does; docs/configuration.md has one row for each
(a test compares them).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from registry.domain.errors import InvalidError
from registry.domain.names import check_pointer
from registry.domain.targets import Allowed


class InvalidSettingError(InvalidError):
    """An environment variable holds a value the setting does not allow."""

    code = "INVALID_SETTING"
    remedy = "Correct the variable; docs/configuration.md lists every setting with its form."


def _setting(variable: str, meaning: str, *, default: Any = "") -> Any:
    return field(default=default, metadata={"variable": variable, "meaning": meaning})


@dataclass(frozen=True, slots=True)
class _FromEnvironment:
    """Reads each field from its variable; an empty or missing variable leaves the default."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Build the settings. Raises InvalidSettingError naming the variable."""
        source = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        for setting in fields(cls):
            raw = source.get(setting.metadata["variable"], "")
            if raw:
                values[setting.name] = _convert(setting.metadata["variable"], raw, setting.default)
        return cls(**values)

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Variable name to meaning, for the documentation test."""
        return {setting.metadata["variable"]: setting.metadata["meaning"] for setting in fields(cls)}


def _convert(variable: str, raw: str, default: object) -> object:
    if isinstance(default, bool):
        if raw.lower() not in {"0", "1", "true", "false"}:
            raise InvalidSettingError(f"{variable} must be 1 or 0, not {raw!r}.")
        return raw.lower() in {"1", "true"}
    if isinstance(default, int):
        if not raw.isascii() or not raw.isdigit():
            raise InvalidSettingError(f"{variable} must be a whole number, not {raw!r}.")
        return int(raw)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in raw.split(",") if part.strip())
    if isinstance(default, Path):
        return Path(raw).expanduser()
    return raw


@dataclass(frozen=True, slots=True)
class ClientConfig(_FromEnvironment):
    """What the client library and the command line read."""

    url: str = _setting("REGISTRY_URL", "Address of the registry, such as `http://127.0.0.1:8080`.")
    token: str = field(
        default="",
        repr=False,
        metadata={
            "variable": "REGISTRY_TOKEN",
            "meaning": "Token the client sends; overrides what `registry login` stored.",
        },
    )
    cache: Path = _setting(
        "REGISTRY_CACHE",
        "Folder of pulled versions that are kept for the next pull or load.",
        default=Path("~/.cache/weight-registry"),
    )
    cache_size_gb: int = _setting(
        "REGISTRY_CACHE_SIZE",
        "Gigabytes that this folder may hold: a pull into it drops the versions not used for longest; 0 for no limit.",
        default=50,
    )
    credentials: Path = _setting(
        "REGISTRY_CREDENTIALS",
        "File in which `registry login` keeps address and token (mode 0600).",
        default=Path("~/.config/weight-registry/credentials.json"),
    )


@dataclass(frozen=True, slots=True)
class Config(_FromEnvironment):
    """What the server processes read: API, worker and `db upgrade`. Secrets never appear in `repr`."""

    database_url: str = field(
        default="",
        repr=False,
        metadata={
            "variable": "REGISTRY_DATABASE_URL",
            "meaning": "`sqlite:///…` (an absolute path) or `postgresql+psycopg://…`.",
        },
    )
    s3_bucket: str = _setting("REGISTRY_S3_BUCKET", "Bucket that holds the weights.", default="weight-registry")
    s3_endpoint_url: str = _setting("REGISTRY_S3_ENDPOINT_URL", "S3 endpoint the server uses; empty means AWS.")
    s3_public_endpoint_url: str = _setting(
        "REGISTRY_S3_PUBLIC_ENDPOINT_URL",
        "S3 endpoint that clients reach, if it differs; presigned URLs carry it, signed.",
    )
    s3_local_path: Path = _setting(
        "REGISTRY_S3_LOCAL_PATH",
        "Folder of a store on this machine that acknowledges before it flushes (set by `registry serve`): "
        "it is flushed before a version is published.",
        default=Path(),
    )
    s3_region: str = _setting("AWS_REGION", "Region signed into S3 requests.", default="us-east-1")
    s3_access_key: str = field(
        default="",
        repr=False,
        metadata={
            "variable": "AWS_ACCESS_KEY_ID",
            "meaning": "S3 access key; if empty, boto3's usual chain (profile, role) is used.",
        },
    )
    s3_secret_key: str = field(
        default="",
        repr=False,
        metadata={"variable": "AWS_SECRET_ACCESS_KEY", "meaning": "S3 secret key that belongs to the access key."},
    )
    s3_session_token: str = field(
        default="",
        repr=False,
        metadata={"variable": "AWS_SESSION_TOKEN", "meaning": "Session token of temporary S3 credentials."},
    )
    s3_ca_bundle: Path = _setting(
        "AWS_CA_BUNDLE", "File of certificates trusted for S3 beside the usual ones.", default=Path()
    )
    admin_token: str = field(
        default="",
        repr=False,
        metadata={
            "variable": "REGISTRY_ADMIN_TOKEN",
            "meaning": "Bootstrap administrator token: any secret of at least 20 characters.",
        },
    )
    stages: tuple[str, ...] = _setting(
        "REGISTRY_STAGES",
        "Names of the stages every model has, separated by commas.",
        default=("staging", "production"),
    )
    upload_ttl_s: int = _setting(
        "REGISTRY_UPLOAD_TTL",
        "Seconds an upload may stay idle before it expires; each request on it starts the time anew.",
        default=86_400,
    )
    url_ttl_s: int = _setting(
        "REGISTRY_URL_TTL",
        "Seconds a presigned URL is valid; always shorter than the lease of its segment.",
        default=3_600,
    )
    webhook_allow: tuple[str, ...] = _setting(
        "REGISTRY_WEBHOOK_ALLOW",
        "Internal targets that webhooks may have, separated by commas: names of hosts, addresses, CIDR ranges.",
        default=(),
    )
    secure_cookies: bool = _setting(
        "REGISTRY_SECURE_COOKIES", "1 if the pages are only served over HTTPS.", default=False
    )

    def __post_init__(self) -> None:
        """Refuse combinations that would be unsafe. Raises InvalidSettingError."""
        if self.admin_token and len(self.admin_token) < 20:
            raise InvalidSettingError("REGISTRY_ADMIN_TOKEN must have at least 20 characters.")
        for stage in self.stages:
            check_pointer(stage)
        if not self.stages:
            raise InvalidSettingError("REGISTRY_STAGES must name at least one stage.")
        if self.url_ttl_s < 1 or self.upload_ttl_s <= self.url_ttl_s:
            raise InvalidSettingError("REGISTRY_UPLOAD_TTL must be longer than REGISTRY_URL_TTL, and both positive.")
        try:
            Allowed.of(self.webhook_allow)
        except ValueError as error:
            raise InvalidSettingError(f"REGISTRY_WEBHOOK_ALLOW is not valid: {error}.") from None
        if self.database_url and not self.database_url.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise InvalidSettingError("REGISTRY_DATABASE_URL must start with sqlite:/// or postgresql+psycopg://.")

    @property
    def lease_ttl_s(self) -> int:
        """Seconds a segment stays safe from collection after it was asked about: longer than any URL lives."""
        return self.upload_ttl_s + self.url_ttl_s
