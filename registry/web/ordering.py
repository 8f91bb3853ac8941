"""What a page shows first: the stage that serves people, the metric that decides."""

from collections import Counter
from collections.abc import Mapping, Sequence


def stages(configured: Sequence[str]) -> list[str]:
    """The stages from the one nearest to production; they are configured in the order a version climbs."""
    return list(reversed(configured))


def metric_names(metrics: Mapping[int, Mapping[str, float]], *, first: str | None, limit: int) -> list[str]:
    """The metrics that most of these versions have, the objective's before all others."""
    counted = Counter(name for measured in metrics.values() for name in measured)
    names = sorted(counted, key=lambda name: (name != first, -counted[name], name))
    return names[:limit]
