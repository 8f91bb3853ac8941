"""A worker is killed while it proves versions: the next one goes on, and every version becomes verified."""

import os
import signal
import time
from collections.abc import Callable
from random import Random

import pytest

from tests.faults.evidence import make_content
from tests.faults.scene import MODEL, SOAK, Scene, draw
from tests.support.chaos import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KINDS = [pytest.param(kind, marks=pytest.mark.xdist_group(f"chaos-{kind}")) for kind in ("sqlite", "postgres")]


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, scene_on: Callable[[str], Scene]):
    scene = scene_on(request.param)
    yield scene
    scene.arena.kill_worker()


def integrities(scene: Scene) -> set[str]:
    with scene.arena.live.client() as client:
        return {each.integrity for each in client.versions(MODEL)}


def push(scene: Scene, seed: int, *, mib: tuple[int, int]) -> None:
    content = make_content(scene.arena.folder / f"content-{seed}", Random(seed), mib=mib)
    ended = scene.arena.push(MODEL, content.folder).ended()
    assert ended.acknowledged, ended.said
    scene.keep(ended, content)
    content.remove()


def finish(scene: Scene) -> None:
    """A last worker, which is left alone."""
    scene.arena.start_worker()
    until(lambda: integrities(scene) == {"verified"}, "every version is verified", pause_s=0.2)
    assert scene.evidence.problems() == []


def test_a_worker_killed_while_it_reads_leaves_its_work_to_the_next(scene: Scene):
    push(scene, draw(), mib=(8, 8))
    store = scene.arena.store.pid
    os.kill(store, signal.SIGSTOP)  # so that no proof can end before the kill
    try:
        scene.arena.start_worker()
        until(lambda: scene.evidence.proofs("PENDING") > 0, "the worker took work up")
        time.sleep(0.3)
        scene.arena.kill_worker()
    finally:
        os.kill(store, signal.SIGCONT)
    assert scene.evidence.proofs("PENDING") > 0
    assert "unverified" in integrities(scene)
    finish(scene)


@pytest.mark.parametrize("points", [pytest.param(8, marks=SOAK)])
def test_a_worker_killed_at_any_moment_leaves_its_work_to_the_next(scene: Scene, points: int):
    random = Random(draw())
    push(scene, random.randrange(10**9), mib=(10, 30))
    began = time.monotonic()
    finish(scene)
    needed = time.monotonic() - began
    scene.arena.kill_worker()
    for _ in range(points):
        push(scene, random.randrange(10**9), mib=(10, 30))
        scene.arena.start_worker()
        moment = random.uniform(0.5, 1.05) * needed
        time.sleep(moment)
        scene.arena.kill_worker()
        left = scene.evidence.proofs("ENQUEUED"), scene.evidence.proofs("PENDING")
        print(f"worker killed {moment:.2f} s after its start: {left[0]} proofs not begun, {left[1]} not finished")
    finish(scene)
