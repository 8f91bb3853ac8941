"""The health of a version in a line or two."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.wire import HealthOut

_KINDS = {"nan": "NaN", "inf": "Inf", "zero": "nothing but zeros", "unread": "numbers that are not looked into"}
_SHOWN = 3


def lines(health: "HealthOut") -> str:
    """What there is to say, nothing for files without tensors; below it a line for each kind of fault."""
    if health.state == "pending":
        return "pending: no worker has read the weights yet"
    if health.state == "failed":
        return "failed: the stored bytes are damaged"
    if not health.tensor_count:
        return ""
    return "\n".join([", ".join(_parts(health)), *(_finding(*found) for found in health.findings.items())])


def _parts(health: "HealthOut") -> list[str]:
    counts = health.parameters_by_dtype
    dtypes = ", ".join(sorted(counts, key=lambda dtype: -counts[dtype]))
    parts = [f"{health.parameter_count or 0:,} parameters ({dtypes})"]
    found = [f"{count:,} {what}" for count, what in ((health.nan_count, "NaN"), (health.inf_count, "Inf")) if count]
    if found:
        parts += found
    elif "unread" not in health.findings:
        parts.append("no NaN, no Inf")
    if health.norm_drift is not None:
        against = f" against {health.parent}" if health.parent else " against a version that you may not read"
        parts.append(f"norm drift {_percent(health.norm_drift)}{against}")
    if health.worst_drift:
        parts.append(f"at most {_percent(health.worst_drift)} in {health.worst_tensor}")
    return parts


def _finding(kind: str, names: list[str]) -> str:
    more = " …" if len(names) > _SHOWN else ""
    return f"{_KINDS.get(kind, kind)} in {', '.join(names[:_SHOWN])}{more}"


def _percent(change: float) -> str:
    return f"{change * 100:.2g} %" if change < 1 else f"{change * 100:,.0f} %"
