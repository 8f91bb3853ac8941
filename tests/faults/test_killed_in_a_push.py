"""Someone is killed in the middle of a push, at a random moment: nothing acknowledged is lost, nothing is half there.

Each point prints the seed it was drawn from; `CHAOS_SEED` draws the same again. `make soak` takes many more points.
"""

import signal
import time
from collections.abc import Callable
from random import Random

import pytest

from tests.faults.evidence import make_content
from tests.faults.scene import MODEL, SOAK, Moment, Scene, draw

# What a client may give up with, its patience over, while a part of the registry is away.
AWAY = {
    "SERVER_UNREACHABLE",
    "STORAGE_UNREACHABLE",
    "STORAGE_UNAVAILABLE",
    "DATABASE_UNAVAILABLE",
    "DATABASE_BUSY",
}
KILLED = -signal.SIGKILL


def strike(scene: Scene, victim: str, seed: int, *, mib: tuple[int, int]) -> None:
    """One point: a push, a kill in it, a restart, and the same push again."""
    random = Random(seed)
    content = make_content(scene.arena.folder / f"content-{seed}", random, mib=mib)
    moment, pause = Moment.draw(random), random.uniform(0, 1)
    with_client = victim == "client" or random.random() < 0.5  # or it finds its own way through the outage
    size = content.size - sum(scene.evidence.whole(content).values())
    attempt = scene.arena.push(MODEL, content.folder)
    moment.wait(attempt, size)
    if with_client:
        attempt.kill()
    if victim != "client":
        scene.arena.kill(victim)
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
    scene.keep(again, content)
    # What the dead had sent may land between the look and the repeat: then less was missing, and it was published once.
    assert again.moved <= missing
    assert not (again.created and there)
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
