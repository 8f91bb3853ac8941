"""A registry to kill parts of, what it has acknowledged, and the moments at which to kill."""

import os
import secrets
import shutil
import time
from dataclasses import dataclass, field
from random import Random

import pytest

from tests.faults.evidence import Content, Evidence, content_of
from tests.support.chaos import Arena, Attempt, Ended

MODEL = "hit"
SOAK = pytest.mark.soak
LAST_SECONDS = 0.4
"""About as long as a push takes from its last byte to its end."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When to kill: once a share of the bytes that are missing was sent, or some seconds after the last of them."""

    share: float
    seconds: float

    @classmethod
    def draw(cls, random: Random) -> "Moment":
        if random.random() < 0.65:
            return cls(random.random(), 0)
        return cls(1, random.uniform(0, LAST_SECONDS))

    def wait(self, attempt: Attempt, size: int) -> None:
        while attempt.is_running() and attempt.sent() < self.share * size:
            time.sleep(0.0005)
        time.sleep(self.seconds)

    def __str__(self) -> str:
        return f"{self.share:.0%} sent" + (f" and {self.seconds:.2f} s later" if self.seconds else "")


@dataclass
class Scene:
    """An arena, and what was acknowledged in it: sha256 by path, by version number."""

    arena: Arena
    evidence: Evidence
    acknowledged: dict[int, dict[str, str]] = field(default_factory=dict)

    def keep(self, ended: Ended, content: Content) -> None:
        assert ended.number is not None
        self.acknowledged[ended.number] = content.files

    def pulled(self, number: int) -> dict[str, str]:
        """Sha256 by path of what a client without a cache gets; the client's own file beside them left out."""
        folder = self.arena.folder / "pulled"
        with self.arena.live.client(cache=self.arena.folder / "no-cache") as client:
            client.pull(f"{MODEL}:{number}", folder)
        try:
            return content_of(folder).files
        finally:
            shutil.rmtree(folder)
            shutil.rmtree(self.arena.folder / "no-cache", ignore_errors=True)

    def listed(self) -> dict[int, str]:
        """Digest by number, as the API lists them."""
        with self.arena.live.client() as client:
            return {each.number: each.digest.removeprefix("sha256:") for each in client.versions(MODEL)}

    def check(self, content: Content) -> list[int]:
        """Fails unless all is as it must be; gives the numbers under which the content is there."""
        assert self.evidence.problems() == []
        listed = self.listed()
        assert listed == self.evidence.versions(MODEL)
        assert set(self.acknowledged) <= set(listed)
        found = [number for number, digest in listed.items() if digest == content.digest]
        assert set(listed) - set(self.acknowledged) <= set(found)
        for number in found:
            assert self.pulled(number) == content.files
        return found


def draw() -> int:
    """The seed of a test."""
    return int(os.environ.get("CHAOS_SEED") or secrets.randbelow(10**9))
