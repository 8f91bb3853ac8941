"""What things may be called.

A name is checked once, where it enters, and carried in its canonical form. Two names that differ only in case or in
runs of `.`, `_` and `-` are the same name: `fold` gives the key under which a name is unique *and* looked up.

Every `check_…` returns the text it was given, or raises an error whose message quotes it.
"""

import re
from dataclasses import dataclass
from typing import Final

from registry.domain.errors import InvalidError

DEFAULT_NAMESPACE: Final = "default"
SYSTEM_CHAIN: Final = "_system"  # not a valid part, so no namespace can take it
BEST: Final = "best"

FORBIDDEN_PARTS: Final = frozenset({
    "-", "aliases", "api", "artifacts", "diff", "history", "lineage", "metrics", "policy", "promotions", "search",
    "stages", "tags", "uploads", "versions",
})  # fmt: skip
RESERVED_POINTERS: Final = frozenset({BEST, "head", "latest", "main", "none", "sha256"})
RESERVED_USERS: Final = frozenset({"anonymous", "me", "system", "worker"})

MAX_LABEL: Final = 250  # characters of a metric, parameter, tag key, dataset, split, slice or evaluator name
MAX_VALUE: Final = 8_000  # characters of a tag or parameter value

PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_POINTER = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_USER = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,95}")
_VERSION_LIKE = re.compile(r"v[0-9]+")
_DIGEST_LIKE = re.compile(r"[0-9a-f]{7,64}")
_SEPARATORS = re.compile(r"[._-]+")


class InvalidNameError(InvalidError):
    """A namespace's or model's name breaks the naming rule."""

    code = "INVALID_NAME"
    remedy = (
        "Use NAME or NAMESPACE/NAME, each 1 to 96 letters, digits, dots, dashes or underscores, "
        "starting with a letter or digit."
    )


class ReservedNameError(InvalidError):
    """A name is a word that URLs, references or the registry itself use."""

    code = "RESERVED_NAME"
    remedy = "Choose another name."


class InvalidPointerNameError(InvalidError):
    """A stage's or alias's name breaks the naming rule."""

    code = "INVALID_POINTER_NAME"
    remedy = (
        "Use 1 to 64 lower-case letters, digits, dots, dashes or underscores, starting with a letter, that look like "
        "neither a version (v7) nor a digest (deadbeef)."
    )


class InvalidUserNameError(InvalidError):
    """A user's name breaks the naming rule."""

    code = "INVALID_USER_NAME"
    remedy = "Use 1 to 96 lower-case letters, digits or any of . _ - @ +, starting with a letter or digit."


class InvalidTagError(InvalidError):
    """A tag's key or value breaks a rule."""

    code = "INVALID_TAG"
    remedy = (
        f"Use a printable key of at most {MAX_LABEL} characters without '=', "
        f"and a text value of at most {MAX_VALUE:,} characters."
    )


class InvalidLabelError(InvalidError):
    """The name of a metric, parameter, dataset, split, slice or evaluator breaks a rule."""

    code = "INVALID_LABEL"
    remedy = f"Use 1 to {MAX_LABEL} printable characters without spaces at either end."


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """A model's full name, in the spelling it was written in. Text becomes one through `parse_model`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Give the canonical `namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def folded(self) -> str:
        """The key under which this name is unique and looked up."""
        return f"{fold(self.namespace)}/{fold(self.name)}"


def shown(text: str, /) -> str:
    """`text` quoted for a message: on one line, control characters visible, long ones cut."""
    return repr(text if len(text) <= 80 else text[:77] + "…")  # one line of a terminal


def fold(part: str, /) -> str:
    """`part` without the differences that do not make a different name."""
    return _SEPARATORS.sub("-", part.casefold())


def parse_model(text: str, /) -> ModelName:
    """Read `namespace/name`, or `name` for `default/name`.

    Raises InvalidNameError or ReservedNameError.
    """
    first, slash, second = text.partition("/")
    if not slash:
        return ModelName(DEFAULT_NAMESPACE, _check_part(first, "Model name"))
    return ModelName(check_namespace(first), _check_part(second, "Model name"))


def check_namespace(name: str, /) -> str:
    """Check the name of a namespace. Raises InvalidNameError or ReservedNameError."""
    return _check_part(name, "Namespace")


def check_pointer(name: str, /) -> str:
    """Check the name of a stage or alias. Raises InvalidPointerNameError or ReservedNameError."""
    if not _POINTER.fullmatch(name):
        raise InvalidPointerNameError(f"{shown(name)} cannot name a stage or alias.", name=name)
    if name in RESERVED_POINTERS:
        raise ReservedNameError(f"{shown(name)} is reserved and cannot name a stage or alias.", name=name)
    if _VERSION_LIKE.fullmatch(name) or _DIGEST_LIKE.fullmatch(name):
        raise InvalidPointerNameError(
            f"{shown(name)} cannot name a stage or alias because it looks like a version or a digest.", name=name
        )
    return name


def check_user_name(name: str, /) -> str:
    """Check the name of a user. Raises InvalidUserNameError or ReservedNameError."""
    if not _USER.fullmatch(name):
        raise InvalidUserNameError(f"{shown(name)} cannot name a user.", name=name)
    if name in RESERVED_USERS:
        raise ReservedNameError(f"{shown(name)} is reserved and cannot name a user.", name=name)
    return name


def check_tag(key: str, value: str, /) -> tuple[str, str]:
    """Check one tag. A value may span lines, a key may not. Raises InvalidTagError."""
    if not is_label(key) or "=" in key:
        raise InvalidTagError(f"{shown(key)} cannot be the key of a tag.", key=key)
    if not is_text(value):
        raise InvalidTagError(
            f"The value of tag {shown(key)} is over {MAX_VALUE:,} characters or holds control characters.", key=key
        )
    return key, value


def check_metric_name(name: str, /) -> str:
    """Check the name of a metric, such as `metrics/mAP50-95(B)`. Raises InvalidLabelError."""
    return check_label(name, "metric")


def check_dataset_name(name: str, /) -> str:
    """Check the name of a dataset; `=` and `:` would be read as a digest or a split. Raises InvalidLabelError."""
    return _check_plain_label(name, "dataset")


def check_split(name: str, /) -> str:
    """Check the name of a dataset's split. Raises InvalidLabelError."""
    return _check_plain_label(name, "split")


def check_label(name: str, what: str, /) -> str:
    """Check a free name for `what` (a parameter, slice, evaluator, …). Raises InvalidLabelError."""
    if not is_label(name):
        raise InvalidLabelError(f"{shown(name)} cannot name a {what}.", name=name)
    return name


def is_label(text: str, /) -> bool:
    """Whether `text` is 1 to 250 printable characters without space at either end."""
    return 0 < len(text) <= MAX_LABEL and text.isprintable() and text == text.strip()


def is_text(text: str, /) -> bool:
    """Whether `text` is bounded and storable: lines and tabs are, NUL, other controls and lone surrogates are not."""
    if len(text) > MAX_VALUE:
        return False
    return not any(_unstorable(character) for character in text)


def _unstorable(character: str) -> bool:
    code = ord(character)
    if code in (0x09, 0x0A, 0x0D):
        return False
    return code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000  # C0, DEL and C1, surrogates


def _check_part(part: str, what: str) -> str:
    if not PART.fullmatch(part):
        raise InvalidNameError(f"{what} {shown(part)} breaks the naming rule.", name=part)
    if fold(part) in FORBIDDEN_PARTS:
        raise ReservedNameError(f"{what} {shown(part)} is reserved.", name=part)
    return part


def _check_plain_label(name: str, what: str) -> str:
    if "=" in name or ":" in name:
        raise InvalidLabelError(f"{shown(name)} cannot name a {what} because it holds '=' or ':'.", name=name)
    return check_label(name, what)
