"""The shape of a version's health."""

from datetime import datetime
from typing import Literal

from registry.wire.base import Out


class HealthOut(Out):
    """What a worker found in the tensors of a version; while `state` is not `done`, nothing is known.

    `parameter_count` counts the elements of all tensors, `norm` is that of the floating ones. Drift is the relative
    change of norms against `parent` (null if there is none that was measured before, or the actor may not read it),
    over the tensors that both have: 0.003 is 0.3 %. `findings` names the first 20 tensors of each kind of fault: `nan`,
    `inf`, `zero` (a floating tensor of several elements, all zero) and `unread` (a dtype that is not looked into).
    """

    state: Literal["pending", "done", "failed"]
    tensor_count: int | None = None
    parameter_count: int | None = None
    parameters_by_dtype: dict[str, int] = {}
    nan_count: int | None = None
    inf_count: int | None = None
    zero_tensor_count: int | None = None
    norm: float | None = None
    parent: str | None = None
    norm_drift: float | None = None
    worst_drift: float | None = None
    worst_tensor: str | None = None
    findings: dict[str, list[str]] = {}
    computed_at: datetime | None = None
