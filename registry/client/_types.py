"""What the library hands out beside the shapes of `registry.wire`."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ConfigDict

from registry.wire import VersionItem, VersionOut

Progress = Callable[[str, int, int], None]
"""Told `("hash" | "send" | "fetch", bytes done, bytes in all)`, in the calling thread. The total may grow.

A pull ends with `("moved", bytes that came over the network, bytes in all)`; one that waits for another process, which
pulls into the same directory, begins with `("wait", 0, 0)`.
"""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a push or pull moved: of `total` bytes, `moved` went over the network, the rest was there already."""

    total: int = 0
    moved: int = 0

    @property
    def spared(self) -> int:
        """Bytes that did not have to travel."""
        return self.total - self.moved


class VersionSummary(VersionItem):
    """A version as lists show it."""

    model_config = ConfigDict(frozen=True)

    @property
    def ref(self) -> str:
        """The reference that always means this version: `namespace/name:7`."""
        return f"{self.model}:{self.number}"


class Version(VersionOut):
    """A published version. `created` and `transfer` are set by `push` alone."""

    model_config = ConfigDict(frozen=True)

    transfer: Transfer | None = None

    @property
    def ref(self) -> str:
        """The reference that always means this version: `namespace/name:7`."""
        return f"{self.model}:{self.number}"


Ref = str | Version | VersionSummary
"""What means a version: a reference as text, or a version that another method returned."""
