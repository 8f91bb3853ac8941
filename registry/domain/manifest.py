"""Manifests: the identity of a version's content, and the canonical JSON under it and under every event.

A manifest is the canonical JSON of

    {"artifacts": [{"media_type": …, "path": …, "sha256": <64 hex digits>, "size": …}, …], "schema": 1}

with the artifacts in the order of their paths' UTF-8 bytes; its sha256 is the version's digest. `sha256` holds the bare
hex digits, as the field's name already says which digest it is. How bytes are cut, encoded and stored is no part of it.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from registry.domain.digest import InvalidDigestError, check_sha256_hex
from registry.domain.errors import InvalidError
from registry.domain.names import shown
from registry.domain.paths import check_artifact_paths

SCHEMA: Final = 1
MAX_SAFE_INTEGER: Final = 2**53 - 1  # above it, JSON readers that use doubles no longer agree
MAX_JSON_DEPTH: Final = 64

_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")


class InvalidManifestError(InvalidError):
    """A manifest has no artifacts, or one with an impossible size, digest or media type."""

    code = "INVALID_MANIFEST"
    remedy = "Build the manifest from the files again, with the client that pushes them."


class NotCanonicalError(InvalidError):
    """A value has no canonical JSON: not finite, too large an integer, a lone surrogate, nested too deep."""

    code = "NOT_CANONICAL_JSON"
    remedy = "Write the value as a string."


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One artifact: where it lies, how long it is, what its bytes are (sha256 in hex), and what they mean."""

    path: str
    size: int
    sha256: str
    media_type: str = "application/octet-stream"


def check_media_type(text: str, /) -> str:
    """Check a lower-case `type/subtype` without parameters. Raises InvalidManifestError."""
    if not _MEDIA_TYPE.fullmatch(text):
        raise InvalidManifestError(f"{shown(text)} is not a media type.", remedy="Write it as type/subtype.")
    return text


def manifest_bytes(entries: Iterable[ManifestEntry], /) -> bytes:
    """Write the manifest of `entries`, in whatever order they come.

    Raises InvalidManifestError, or what `check_artifact_paths` raises.
    """
    ordered = sorted(entries, key=lambda entry: entry.path)
    check_artifact_paths(entry.path for entry in ordered)
    if not ordered:
        raise InvalidManifestError("The manifest names no artifact.", remedy="Give at least one file.")
    return canonical_json({"schema": SCHEMA, "artifacts": [_checked(entry) for entry in ordered]})


def manifest_digest(entries: Iterable[ManifestEntry], /) -> str:
    """Give the sha256 of the manifest in hex. Raises what `manifest_bytes` raises."""
    return hashlib.sha256(manifest_bytes(entries)).hexdigest()


def canonical_json(value: Any, /) -> bytes:
    """Write `value` as RFC 8785 says: one sequence of bytes for equal values. Raises NotCanonicalError."""
    return _text(value, 0).encode()


def _checked(entry: ManifestEntry) -> dict[str, Any]:
    if not 0 <= entry.size <= MAX_SAFE_INTEGER:
        raise InvalidManifestError(f"The size of artifact {shown(entry.path)} is impossible.", path=entry.path)
    try:
        check_sha256_hex(entry.sha256)
    except InvalidDigestError as error:
        raise InvalidManifestError(
            f"The sha256 of artifact {shown(entry.path)} is malformed.", path=entry.path
        ) from error
    media_type = check_media_type(entry.media_type)
    return {"path": entry.path, "size": entry.size, "sha256": entry.sha256, "media_type": media_type}


def _text(value: Any, depth: int) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int():
            return _integer(value)
        case float():
            return _number(value)
        case dict() | list() | tuple() if depth == MAX_JSON_DEPTH:
            raise NotCanonicalError(f"The value is nested more than {MAX_JSON_DEPTH} levels deep.")
        case dict():
            members = sorted((_sort_key(key), key) for key in value)
            return "{" + ",".join(f"{_string(key)}:{_text(value[key], depth + 1)}" for _, key in members) + "}"
        case list() | tuple():
            return "[" + ",".join(_text(item, depth + 1) for item in value) + "]"
    raise NotCanonicalError(f"A {type(value).__name__} has no canonical JSON.")


def _sort_key(key: Any) -> bytes:
    """Order members by UTF-16 code units, as ECMAScript compares strings: U+10000 sorts before U+E000."""
    if not isinstance(key, str):
        raise NotCanonicalError(f"A member's name must be a string, not a {type(key).__name__}.")
    _refuse_surrogates(key)
    return key.encode("utf-16-be")


def _string(text: str) -> str:
    _refuse_surrogates(text)
    return json.dumps(str(text), ensure_ascii=False)  # escapes exactly what RFC 8785 escapes, in the same spelling


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotCanonicalError(f"{shown(text)} is not Unicode text.") from None


def _integer(value: int) -> str:
    if abs(value) <= MAX_SAFE_INTEGER:
        return str(int(value))
    # Some databases hand a large float back as the integer it was written as; any other large integer would be rounded.
    if abs(value) > sys.float_info.max or Decimal(repr(float(value))) != value:
        raise NotCanonicalError(f"An integer beyond ±{MAX_SAFE_INTEGER:,} has no canonical JSON.")
    return _number(float(value))


def _number(value: float) -> str:
    """Write a double as ECMAScript does: the shortest digits that read back, exponents from 1e21 and below 1e-6."""
    if not math.isfinite(value):
        raise NotCanonicalError(f"The number {value} has no canonical JSON.")
    if value == 0:
        return "0"  # minus zero too
    # `repr` finds the same shortest digits; only where it puts the point and the exponent differs.
    mantissa, _, exponent = repr(abs(float(value))).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))  # digits before the decimal point
    digits = digits.rstrip("0")
    return ("-" if value < 0 else "") + _place_point(digits, point)


def _place_point(digits: str, point: int) -> str:
    if len(digits) <= point <= 21:
        return digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    return f"{mantissa}e{point - 1:+d}"
