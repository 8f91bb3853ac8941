"""What changed between two versions: every page of the answer, and the patience that measuring takes."""

import time
from collections.abc import Sequence
from typing import Any, Final, get_args

from pydantic import ConfigDict

from registry.client._api import LONG_TIMEOUT, PAGE, Api, at
from registry.client._arguments import listed
from registry.client._errors import InvalidArgumentError
from registry.client._types import Progress, Ref
from registry.domain.errors import UnavailableError
from registry.wire import DiffOut, MeasuringOut, TensorChange, TensorDiff

_FIRST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 3.0


class DiffNotMeasuredError(UnavailableError):
    """The differences were not measured in time: a worker has not read both versions yet, or cannot."""

    code = "DIFF_NOT_MEASURED"
    remedy = "Check that a worker runs, and ask again; what was measured meanwhile is kept."


class Diff(DiffOut):
    """What changed from version `a` to version `b`, whole: `tensors`, and all of them in `summary` and `modules`."""

    model_config = ConfigDict(frozen=True)

    @property
    def tensors(self) -> list[TensorDiff]:
        """The tensors of the classes that were asked for."""
        return self.items

    @property
    def is_same(self) -> bool:
        """Whether nothing in the weights differs, whatever the files look like."""
        return self.verdict in ("identical", "same_weights")


class Comparisons:
    """The part of a client that compares versions."""

    _api: Api

    def diff(
        self,
        a: Ref,
        b: Ref,
        *,
        statistics: bool = False,
        classes: Sequence[TensorChange] = (),
        patience: float = 600.0,
        progress: Progress | None = None,
    ) -> Diff:
        """What changed from `a` to `b`, tensor by tensor, told from digests: at once, whatever their size.

        With `statistics` a worker of the registry measures how far apart the changed tensors are, and this waits for
        it, as long as more becomes known every `patience` seconds; `progress` is told `("measure", done, total)`.
        `classes` chooses the tensors to list; the summary, the modules and the verdict are always of all.
        Raises what the server answers, InvalidArgumentError or DiffNotMeasuredError.
        """
        wanted = list(listed(classes))
        unknown = set(wanted) - set(get_args(TensorChange))
        if unknown:
            raise InvalidArgumentError(f"{min(unknown)!r} is no class of change, such as 'changed'.")
        model, number = self._locate(a)
        address = at("models", model, "versions", number, "diff", ":".join(map(str, self._locate(b))))
        if statistics:
            _await(self._api, address, patience=patience, progress=progress)
        query: dict[str, Any] = {"class": ",".join(wanted) or None, "statistics": "1" if statistics else None}
        first = page = _page(self._api, address, **query)
        items = list(first.items)
        while page.next is not None:
            page = _page(self._api, address, cursor=page.next, **query)
            items += page.items
        return Diff.model_validate(first.model_dump() | {"items": items, "next": None})

    def _locate(self, ref: Ref) -> tuple[str, int]:
        """Model and number of a reference."""
        raise NotImplementedError


def _page(api: Api, address: str, **query: Any) -> DiffOut:
    return api.get(address, DiffOut, limit=PAGE, **query)


def _await(api: Api, address: str, *, patience: float, progress: Progress | None) -> None:
    """Have it measured, and wait until it is. Digests that a worker has not found yet are waited for as well."""
    wait, known, until = _FIRST_WAIT, (-1, -1), time.monotonic() + patience
    while True:
        found = api.send("POST", address, None, MeasuringOut, timeout=LONG_TIMEOUT, repeatable=True)
        if progress is not None:
            progress("measure", found.statistics_done, found.statistics_total)
        if found.statistics == "done":
            return
        if found.statistics == "failed":
            raise DiffNotMeasuredError(f"The differences between {found.a} and {found.b} could not be measured.")
        now = (found.statistics_done, found.statistics_total)
        if now != known:
            known, until, wait = now, time.monotonic() + patience, _FIRST_WAIT
        elif time.monotonic() + wait > until:
            waiting = " and ".join({"a": found.a, "b": found.b}[side] for side in found.pending) or "them"
            raise DiffNotMeasuredError(
                f"The differences between {found.a} and {found.b} are not measured yet: no worker has read {waiting}."
            )
        time.sleep(wait)
        wait = min(_LONGEST_WAIT, wait * 1.5)
