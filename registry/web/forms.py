"""What people typed into a form."""

from typing import Final

from flask import request

from registry.domain.digest import parse_digest
from registry.domain.references import MAX_NUMBER
from registry.request import InvalidParameterError

_LONGEST: Final = 10_000


def written(name: str) -> str:
    """Text, without the blanks around it. Raises InvalidParameterError if it is too long to be kept."""
    text = request.form.get(name, "").replace("\r\n", "\n").strip()
    if len(text) > _LONGEST or "\0" in text:
        raise InvalidParameterError(f"{name} must be text of at most {_LONGEST:,} characters.")
    return text


def number(name: str) -> int | None:
    """A whole number that the page put there, None if it put none. Raises InvalidParameterError."""
    raw = request.form.get(name, "")
    if not raw:
        return None
    if not raw.isascii() or not raw.isdigit() or len(raw) > len(str(MAX_NUMBER)) or int(raw) > MAX_NUMBER:
        raise InvalidParameterError(f"{name} must be a whole number.")
    return int(raw)


def digest(name: str) -> str | None:
    """A digest that the page put there, in hex. Raises what `parse_digest` raises."""
    raw = request.form.get(name, "")
    return parse_digest(raw) if raw else None
