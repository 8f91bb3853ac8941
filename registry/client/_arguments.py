"""What callers may give where a request wants one shape: one value for many, numbers of other libraries."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from registry.client._api import checked
from registry.client._errors import InvalidArgumentError
from registry.wire import MetricIn

Metrics = Mapping[str, float] | Iterable[MetricIn | Mapping[str, Any]]


def listed(values: Any) -> Iterable[Any]:
    """One value, or several: what people mean when they give a string where a list of them goes."""
    return [values] if isinstance(values, str | Path) else values


def metrics_in(metrics: Metrics) -> list[MetricIn]:
    if isinstance(metrics, Mapping):
        return [checked(MetricIn, name=name, value=_number(value, name)) for name, value in metrics.items()]
    return [each if isinstance(each, MetricIn) else checked(MetricIn, **each) for each in metrics]


def _number(value: Any, name: str) -> float:
    """A Python float of what numpy or torch call a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"The value of metric {name!r} is not a number.") from None


def plain(params: Mapping[str, Any]) -> Any:
    """Parameters as JSON: scalars of numpy and torch become Python's, paths become text."""

    def convert(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        if callable(getattr(value, "tolist", None)):
            return value.tolist()
        message = f"A {type(value).__name__} among the parameters has no JSON."
        raise InvalidArgumentError(message, remedy="Write the value as text, or as numbers, lists and dictionaries.")

    try:
        return json.loads(json.dumps(params, default=convert, allow_nan=False))
    except ValueError:
        raise InvalidArgumentError("A parameter is not finite, or contains itself.") from None
