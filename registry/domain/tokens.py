"""Tokens: `wr_` and 40 base62 characters, 34 random ones and 6 that spell the CRC-32 of all before them.

The prefix lets secret scanners recognise a leaked token, the checksum lets anyone reject a mistyped one offline.
Only the sha256 of a token is stored, with its first characters for people to tell their tokens apart.
"""

import hashlib
import re
import string
import zlib
from typing import Final

from registry.domain.errors import UnauthenticatedError

PREFIX: Final = "wr_"
RANDOM_BYTES: Final = 32
_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_BODY: Final = 34  # 202 bits
_CHECKSUM: Final = 6  # 62^6 > 2^32
_SHOWN: Final = 8
_TOKEN = re.compile(r"wr_[0-9A-Za-z]{40}")


class MalformedTokenError(UnauthenticatedError):
    """A token is not one that this kind of registry issues: mistyped, cut, or another service's."""

    code = "MALFORMED_TOKEN"
    remedy = "Copy the whole token again, or create one with 'registry token create'."


def new_token(random_bytes: bytes, /) -> str:
    """Make a token of 32 or more bytes of a cryptographic random source. Raises ValueError if there are fewer."""
    if len(random_bytes) < RANDOM_BYTES:
        raise ValueError(f"A token needs {RANDOM_BYTES} random bytes.")
    # 256 bits reduced to 202: the bias of the remainder is below 2^-53.
    start = PREFIX + _base62(int.from_bytes(random_bytes, "big"), _BODY)
    return start + _checksum(start)


def check_token_format(token: str, /) -> str:
    """Check shape and checksum, which proves nothing but care. Raises MalformedTokenError, which never quotes it."""
    if not _TOKEN.fullmatch(token) or _checksum(token[:-_CHECKSUM]) != token[-_CHECKSUM:]:
        raise MalformedTokenError("The token is malformed.")
    return token


def token_prefix(token: str, /) -> str:
    """Give the 8 characters after `wr_`, which may be stored and shown."""
    return token.removeprefix(PREFIX)[:_SHOWN]


def token_digest(token: str, /) -> str:
    """Give the sha256 in hex under which a token is stored and found."""
    return hashlib.sha256(token.encode()).hexdigest()


def _checksum(start: str) -> str:
    return _base62(zlib.crc32(start.encode()), _CHECKSUM)


def _base62(value: int, length: int) -> str:
    digits = []
    for _ in range(length):
        value, digit = divmod(value, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
