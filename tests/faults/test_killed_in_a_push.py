"""Someone is killed in the middle of a push, at a random moment: nothing acknowledged is lost, nothing is half there.

Each point prints the seed it was drawn from; `CHAOS_SEED` draws the same again. `make soak` takes many more points.
"""

import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from random import Random

import pytest

from tests.faults.evidence import Content, Evidence, content_of, make_content
from tests.support.chaos import Arena, Attempt, Ended, arena

MODEL = "hit"
# What a client may give up with, its patience over, while a part of the registry is away.
AWAY = {
    "SERVER_UNREACHABLE",
    "STORAGE_UNREACHABLE",
    "STORAGE_UNAVAILABLE",
    "DATABASE_UNAVAILABLE",
    "DATABASE_BUSY",
}
KILLED = -signal.SIGKILL
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


@pytest.fixture(scope="module")
def scene_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Scene]]:
    """The module's one scene on each kind of database, made when first asked for."""
    with ExitStack() as stack:

        @cache
        def on(kind: str) -> Scene:
            made = stack.enter_context(arena(tmp_path_factory.mktemp(kind), kind))
            with made.live.client() as client:
                client.create_model(MODEL)
            return Scene(made, Evidence(made.database_url, made.store.config))

        yield on


def strike(scene: Scene, victim: str, seed: int, *, mib: tuple[int, int]) -> None:
    """One point: a push, a kill in it, a restart, and the same push again."""
    random = Random(seed)
    content = make_content(scene.arena.folder / f"content-{seed}", random, mib=mib)
    moment, pause = Moment.draw(random), random.uniform(0, 1)
    with_client = victim == "client" or random.random() < 0.5  # or it finds its own way through the outage
    size = content.size - sum(scene.evidence.whole(content).values())
    attempt = scene.arena.push(MODEL, content.folder)
    moment.wait(attempt, size)
    if victim != "client":
        scene.arena.kill(victim)
    if with_client:
        attempt.kill()
    if victim != "client":
        time.sleep(pause)
        scene.arena.restore(victim)
    first = attempt.ended()
    scene.evidence.settle()

    assert first.acknowledged or first.exit_code == KILLED or first.code in AWAY, first.said
    assert with_client or first.exit_code != KILLED
    if first.acknowledged:
        scene.keep(first, content)
    there = scene.check(content)
    whole = scene.evidence.whole(content)
    missing = content.size - sum(whole.values())
    again = scene.arena.push(MODEL, content.folder).ended()
    print(
        f"seed {seed}: {victim}{' and client' if with_client and victim != 'client' else ''} killed at {moment}"
        f" of {size:,} B, client {'done' if first.acknowledged else first.code or first.exit_code},"
        f" {len(whole)} of {len(content.segments)} segments there{', published' if there else ''},"
        f" repeat moved {again.moved:,} B"
    )
    assert again.acknowledged, again.said
    assert again.moved == missing
    assert again.created == (not there)
    assert again.number == (there[0] if there else max(scene.listed()))
    scene.keep(again, content)
    assert scene.check(content) == [again.number]
    content.remove()


def case(kind: str, victim: str, points: int, **mark: pytest.MarkDecorator):
    return pytest.param(
        kind,
        victim,
        points,
        id=f"{kind}-{victim}-{points}",
        marks=[pytest.mark.xdist_group(f"chaos-{kind}"), *mark.values()],
    )


SOAK = pytest.mark.soak
FEW = [
    *(case("sqlite", victim, 1) for victim in ("client", "api", "store")),
    *(case("postgres", victim, 1) for victim in ("client", "api", "store")),
    case("postgres", "database", 2),
]
MANY = [
    *(case("sqlite", victim, 8, soak=SOAK) for victim in ("client", "api", "store")),
    *(case("postgres", victim, 8, soak=SOAK) for victim in ("client", "api", "store")),
    case("postgres", "database", 12, soak=SOAK),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "victim", "points"), [*FEW, *MANY])
def test_a_kill_in_a_push_loses_nothing_and_the_repeat_moves_what_was_missing(
    scene_on: Callable[[str], Scene], kind: str, victim: str, points: int
):
    scene = scene_on(kind)
    random = Random(draw())
    for _ in range(points):
        strike(scene, victim, random.randrange(10**9), mib=(5, 30) if points > 2 else (5, 12))
    for number, files in scene.acknowledged.items():
        assert scene.pulled(number) == files
