"""Digests: sha256 of exact bytes. Code carries the 64 hex digits; `sha256:` is written at the edges."""

import re
from typing import Final

from registry.domain.errors import InvalidError
from registry.domain.names import shown

PREFIX: Final = "sha256:"
_HEX = re.compile(r"[0-9a-f]{64}")


class InvalidDigestError(InvalidError):
    """A digest is not a sha256 written in lower-case hex."""

    code = "INVALID_DIGEST"
    remedy = "Write sha256: and 64 lower-case hex digits."


def check_sha256_hex(text: str, /) -> str:
    """Check 64 lower-case hex digits. Raises InvalidDigestError."""
    if not _HEX.fullmatch(text):
        raise InvalidDigestError(f"{shown(text)} is not 64 lower-case hex digits.", digest=text)
    return text


def parse_digest(text: str, /) -> str:
    """Give the hex digits of `sha256:<hex>`. Raises InvalidDigestError."""
    if not text.startswith(PREFIX) or not _HEX.fullmatch(text, len(PREFIX)):
        raise InvalidDigestError(f"{shown(text)} is not a sha256 digest.", digest=text)
    return text.removeprefix(PREFIX)


def format_digest(sha256: str, /) -> str:
    """Write hex digits as `sha256:<hex>`."""
    return PREFIX + sha256
