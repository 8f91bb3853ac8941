"""What people type to mean a version, a parent, a metric, a dataset or a parameter.

    NAME                    the highest ready release that is an original
    NAME:7                  version 7
    NAME@production         what a stage or alias holds; `best` is by the model's objective
    NAME@sha256:<hex>       the highest live version with this manifest digest

Reading is strict and total: every text is one thing or an error of one sentence.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Final

from registry.domain import names
from registry.domain.digest import PREFIX, InvalidDigestError, format_digest, parse_digest
from registry.domain.errors import InvalidError
from registry.domain.lineage import Relation
from registry.domain.names import ModelName, parse_model, shown

MAX_NUMBER: Final = 2**31 - 1
MAX_URI: Final = 2_048
_MAX_METRIC: Final = 1_024
_SAFE_INTEGER: Final = 2**53 - 1

Scalar = str | int | float | bool | None

_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_SPLIT_HERE = re.compile(r"[:@]")
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31})://(\S+)")
_CREDENTIALS = re.compile(r"[^/?#]*:[^/?#]*@")
_SCRIPTS = frozenset({"data", "javascript", "vbscript"})
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")  # float() takes `1_0` and `٧` too
# The value decides where the name ends, so that a name such as `AP@[IoU=0.50:0.95]` may hold `=` and `@`.
_METRIC = re.compile(
    r"(?P<name>.+?)=(?P<value>[^=@]+)"
    r"(?:@(?P<dataset>[^=:]+(?:=sha256:[0-9a-f]{64})?)(?::(?P<split>[^=:]+))?)?"
)


class InvalidReferenceError(InvalidError):
    """A reference is not of the form NAME, NAME:7, NAME@production or NAME@sha256:<hex>."""

    code = "INVALID_REFERENCE"
    remedy = "Write NAME, NAME:7, NAME@production, NAME@best or NAME@sha256: and 64 hex digits."


class InvalidParentError(InvalidError):
    """A parent is neither a reference nor a usable URI."""

    code = "INVALID_PARENT"
    remedy = f"Write [RELATION=]REFERENCE or [RELATION=]URI, where RELATION is one of {', '.join(Relation)}."


class InvalidMetricError(InvalidError):
    """A metric is not of the form NAME=VALUE or NAME=VALUE@DATASET[:SPLIT] with a finite value."""

    code = "INVALID_METRIC"
    remedy = "Write NAME=VALUE or NAME=VALUE@DATASET[:SPLIT], where VALUE is a finite number."


class InvalidDatasetError(InvalidError):
    """A dataset is not of the form NAME or NAME=sha256:<hex>."""

    code = "INVALID_DATASET"
    remedy = "Write NAME or NAME=sha256: and 64 hex digits."


class InvalidAssignmentError(InvalidError):
    """A parameter or tag is not of the form KEY=VALUE."""

    code = "INVALID_ASSIGNMENT"
    remedy = "Write KEY=VALUE."


@dataclass(frozen=True, slots=True)
class Reference:
    """One way to mean a version: at most one of `number`, `pointer` and `digest` (hex digits) is set."""

    model: ModelName
    number: int | None = None
    pointer: str | None = None
    digest: str | None = None

    @property
    def selector(self) -> str:
        """What follows the model's name: `:7`, `@production`, `@sha256:<hex>` or nothing."""
        if self.number is not None:
            return f":{self.number}"
        if self.pointer is not None:
            return f"@{self.pointer}"
        return f"@{format_digest(self.digest)}" if self.digest else ""

    @property
    def moves(self) -> bool:
        """True if it may mean another version tomorrow."""
        return self.number is None and self.digest is None

    def __str__(self) -> str:
        return f"{self.model}{self.selector}"


@dataclass(frozen=True, slots=True)
class Parent:
    """What a version was made from, and how: exactly one of `reference` and `uri` is set."""

    relation: Relation
    reference: Reference | None = None
    uri: str | None = None

    def __str__(self) -> str:
        return f"{self.relation}={self.uri or self.reference}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset by name and, if known, the sha256 of its content."""

    name: str
    sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.name}={format_digest(self.sha256)}" if self.sha256 else self.name


@dataclass(frozen=True, slots=True)
class MetricArgument:
    """One measured number as typed on a command line."""

    name: str
    value: float
    dataset: Dataset | None = None
    split: str | None = None


def parse_reference(text: str, /) -> Reference:
    """Read a reference. Raises InvalidReferenceError, or what `parse_model` and `check_pointer` raise."""
    found = _SPLIT_HERE.search(text)
    if not found:
        return Reference(parse_model(text))
    model, selector = parse_model(text[: found.start()]), text[found.end() :]
    if found.group() == ":":
        return Reference(model, number=_parse_number(selector, text))
    if selector == names.BEST:
        return Reference(model, pointer=selector)
    if selector.startswith(PREFIX):
        return Reference(model, digest=_parse_reference_digest(selector, text))
    _hint_at_habits(model, selector, text)
    return Reference(model, pointer=names.check_pointer(selector))


def parse_parent(text: str, /) -> Parent:
    """Read `[RELATION=](REFERENCE|URI)`; a fine-tune if no relation is given. A URI contains `://`.

    Raises InvalidParentError, or what `parse_reference` raises.
    """
    before, equals, after = text.partition("=")
    if equals and before in set(Relation):
        relation, target = Relation(before), after
    else:
        relation, target = Relation.FINETUNE, text
    if "://" in target:
        return Parent(relation, uri=_check_uri(target))
    if "=" in target:
        raise InvalidParentError(f"{shown(before)} is not a relation between versions.", parent=text)
    return Parent(relation, reference=parse_reference(target))


def parse_metric(text: str, /) -> MetricArgument:
    """Read `NAME=VALUE` or `NAME=VALUE@DATASET[:SPLIT]`, where DATASET may carry its `=sha256:<hex>`.

    Raises InvalidMetricError, InvalidDatasetError or InvalidLabelError.
    """
    found = _METRIC.fullmatch(text) if len(text) <= _MAX_METRIC else None
    if not found:
        raise InvalidMetricError(f"{shown(text)} is not a metric.", metric=text)
    if not _DECIMAL.fullmatch(found["value"]):
        raise InvalidMetricError(f"The value of metric {shown(text)} is not a finite number.", metric=text)
    dataset, split = found["dataset"], found["split"]
    return MetricArgument(
        names.check_metric_name(found["name"]),
        check_metric_value(float(found["value"]), name=found["name"]),
        parse_dataset(dataset) if dataset else None,
        names.check_split(split) if split else None,
    )


def check_metric_value(value: float, /, *, name: str) -> float:
    """Check that a metric's value can be compared. Raises InvalidMetricError for NaN and infinity."""
    if not math.isfinite(value):
        raise InvalidMetricError(f"The value of metric {shown(name)} is not finite.", metric=name)
    return value


def parse_dataset(text: str, /) -> Dataset:
    """Read `NAME` or `NAME=sha256:<hex>`. Raises InvalidDatasetError or InvalidLabelError."""
    name, equals, digest = text.partition("=")
    names.check_dataset_name(name)
    if not equals:
        return Dataset(name)
    try:
        return Dataset(name, parse_digest(digest))
    except InvalidDigestError:
        raise InvalidDatasetError(f"The digest of dataset {shown(text)} is malformed.", dataset=text) from None


def parse_assignment(text: str, /) -> tuple[str, Scalar]:
    """Read `KEY=VALUE`, where VALUE is a JSON scalar if it reads as one and a string otherwise.

    Raises InvalidAssignmentError or InvalidLabelError.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidAssignmentError(f"{shown(text)} has no '='.", assignment=text)
    names.check_label(key, "parameter")
    if not names.is_text(value):
        raise InvalidAssignmentError(f"The value of {shown(key)} is too long or holds control characters.", key=key)
    return key, _scalar(value)


def _scalar(text: str) -> Scalar:
    """Give the JSON scalar that `text` is; what JSON cannot carry between programs unchanged stays a string."""
    if text.lstrip()[:1] in ("[", "{"):  # no scalar; and nesting could exhaust the stack
        return text
    try:
        value: Scalar = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, float) and not math.isfinite(value):
        return text
    if isinstance(value, int) and abs(value) > _SAFE_INTEGER:
        return text
    if isinstance(value, str) and not names.is_text(value):
        return text
    return value


def _parse_number(selector: str, text: str) -> int:
    if not _NUMBER.fullmatch(selector) or int(selector) > MAX_NUMBER:
        raise InvalidReferenceError(
            f"{shown(text)} has no version number from 1 to {MAX_NUMBER:,} after the colon.", reference=text
        )
    return int(selector)


def _parse_reference_digest(selector: str, text: str) -> str:
    try:
        return parse_digest(selector)
    except InvalidDigestError as error:
        raise InvalidReferenceError(
            f"The digest in {shown(text)} is malformed.", remedy=error.remedy, reference=text
        ) from None


def _hint_at_habits(model: ModelName, selector: str, text: str) -> None:
    """Answer what other tools taught people to type with what to type here."""
    number = selector.removeprefix("v")
    if _NUMBER.fullmatch(number):
        raise InvalidReferenceError(
            f"{shown(text)} gives a version number after '@'.", remedy=f"Write {model}:{number}.", reference=text
        )
    if selector in ("latest", "head"):
        raise InvalidReferenceError(
            f"{shown(text)} uses a name that no stage or alias can have.",
            remedy=f"Write {model} for its newest release.",
            reference=text,
        )


def _check_uri(text: str) -> str:
    found = _URI.fullmatch(text)
    if not found or len(text) > MAX_URI or not text.isprintable():
        raise InvalidParentError(f"{shown(text)} is not a URI of at most {MAX_URI:,} characters.", parent=text)
    if found[1].lower() in _SCRIPTS:
        raise InvalidParentError(f"{shown(text)} is not where a model can come from.", parent=text)
    if _CREDENTIALS.match(found[2]):
        raise InvalidParentError(
            f"The parent at {shown(found[1] + '://…')} carries a password.", remedy="Leave the password out of the URI."
        )
    return text
