"""A worker is killed while it writes the files of staged versions whole: the next one goes on, and nothing is left."""

import hashlib
import random as randomness
import subprocess
import time
from collections.abc import Callable

import pytest
from sqlalchemy import select

from registry.db.tables import WholeObject
from registry.storage.layout import NAMESPACES, whole_key
from registry.storage.s3 import Store
from tests.faults.evidence import make_content
from tests.faults.scene import MODEL, SOAK, Scene, draw
from tests.support.chaos import until
from tests.support.live import TOKEN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KINDS = [pytest.param(kind, marks=pytest.mark.xdist_group(f"chaos-{kind}")) for kind in ("sqlite", "postgres")]
FILE = "model.safetensors"


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, scene_on: Callable[[str], Scene]):
    scene = scene_on(request.param)
    yield scene
    scene.arena.kill_worker()


def push(scene: Scene, random: randomness.Random) -> tuple[int, str]:
    """Number and sha256 of the file of a version that consists of many segments."""
    content = make_content(scene.arena.folder / f"content-{random.getrandbits(40)}", random, mib=(30, 60))
    ended = scene.arena.push(MODEL, content.folder).ended()
    assert ended.acknowledged, ended.said
    scene.keep(ended, content)
    content.remove()
    assert ended.number is not None
    return ended.number, content.files[FILE]


def live(scene: Scene) -> list[tuple[str, str]]:
    """Sha256 and key of what downloads are redirected to; [("", "")] while something is still to be done."""
    with scene.evidence.session() as session:
        rows = session.scalars(select(WholeObject).where(WholeObject.state != "condemned")).all()
    if any(row.state != "live" for row in rows):
        return [("", "")]
    return [(row.sha256, whole_key(row.namespace_id, row.sha256, row.generation)) for row in rows]


def curl(scene: Scene, number: int) -> str:
    """The sha256 of what a plain client gets."""
    url = f"{scene.arena.live.url}/api/v1/models/{MODEL}/versions/{number}/artifacts/{FILE}"
    command = ["curl", "-sSfL", "-H", f"Authorization: Bearer {TOKEN}", url]
    return hashlib.sha256(subprocess.run(command, capture_output=True, check=True).stdout).hexdigest()


@pytest.mark.parametrize("points", [3, pytest.param(20, marks=SOAK)])
def test_a_worker_killed_while_it_writes_a_file_leaves_it_to_the_next(scene: Scene, points: int):
    random = randomness.Random(draw())
    store = Store(scene.evidence.store)
    for _ in range(points):
        number, sha256 = push(scene, random)
        with scene.arena.live.client() as client:
            client.promote(f"{MODEL}:{number}", to="production")
        scene.arena.start_worker()
        moment = random.uniform(1.5, 5)
        time.sleep(moment)
        scene.arena.kill_worker()
        print(f"worker killed {moment:.2f} s after its start, when this was whole: {live(scene)}")
        scene.arena.start_worker()
        until(lambda expected=sha256: [found[0] for found in live(scene)] == [expected], "the file is whole")  # type: ignore[misc]
        scene.arena.kill_worker()
        [(_, key)] = live(scene)
        assert hashlib.sha256(store.read(key, 0, store.head(key).size)).hexdigest() == sha256
        assert curl(scene, number) == sha256
    left = [found.key for found in store.multipart.unended(NAMESPACES)]
    print(f"uploads left for the sweep: {len(left)}")
    assert len(left) <= points
