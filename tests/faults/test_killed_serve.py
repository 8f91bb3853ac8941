"""`registry serve`, or a process inside it, is killed outright in the middle of a push."""

import os
import signal
import time
from pathlib import Path
from random import Random

import psutil
import pytest

from benchmarks.serving import Serving
from registry.embedded.home import Home
from registry.embedded.seaweed import BUCKET, REGION
from registry.storage.s3 import StoreConfig
from tests.faults.evidence import Content, Evidence, content_of, make_content
from tests.faults.scene import Moment, draw
from tests.support.chaos import Attempt, client_environ, is_ready, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("chaos-serve")]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory):
    made = Serving(tmp_path_factory.mktemp("serve"))
    yield made
    if made.is_running():
        made.stop()


@pytest.fixture
def serving(stack: Serving):
    """One home for the whole module, running, whatever the test before did to it."""
    if not stack.is_running():
        stack.start()
    return stack


def evidence_of(serving: Serving) -> Evidence:
    home = Home.open(serving.home)
    keys = home.credentials()
    endpoint = f"http://127.0.0.1:{serving.s3_port}"
    store = StoreConfig(BUCKET, endpoint, region=REGION, access_key=keys.access_key, secret_key=keys.secret_key)
    return Evidence(home.database_url, store)


def push(serving: Serving, model: str, content: Content) -> Attempt:
    environ = client_environ(serving.home.parent, serving.url, serving.token)
    return Attempt([model, str(content.folder)], environ)


def family(serving: Serving) -> list[psutil.Process]:
    return psutil.Process(serving.pid).children(recursive=True)


def pulled(serving: Serving, reference: str, folder: Path) -> dict[str, str]:
    with serving.client(cache=folder / "cache") as client:
        client.pull(reference, folder / "pulled")
    return content_of(folder / "pulled").files


def verified(serving: Serving, reference: str) -> None:
    """Fails unless the worker proves it soon."""
    with serving.client() as client:
        until(lambda: client.version(reference).integrity == "verified", f"{reference} is verified", pause_s=0.2)


def test_a_killed_serve_leaves_no_process_and_a_restart_continues_the_push(serving: Serving, tmp_path: Path):
    random = Random(draw())
    first = make_content(tmp_path / "first", random, mib=(5, 10))
    second = make_content(tmp_path / "second", random, mib=(10, 20))
    acknowledged = push(serving, "first", first).ended()
    assert acknowledged.number == 1, acknowledged.said
    evidence, moment = evidence_of(serving), Moment.draw(random)

    attempt = push(serving, "second", second)
    moment.wait(attempt, second.size - sum(evidence.whole(second).values()))
    processes = family(serving)
    assert serving.stop(signal.SIGKILL) == -signal.SIGKILL
    attempt.kill()
    left = [process.cmdline() for process in psutil.wait_procs(processes, timeout=10)[1]]
    assert left == []
    interrupted = attempt.ended()

    serving.start()
    assert evidence.problems() == []
    published = bool(evidence.versions("second"))
    assert published or not interrupted.acknowledged
    assert pulled(serving, "first:1", tmp_path / "one") == first.files
    missing = second.size - sum(evidence.whole(second).values())
    again = push(serving, "second", second).ended()
    print(f"serve killed at {moment}: client {interrupted.exit_code}, repeat moved {again.moved:,} B")
    assert again.number == 1, again.said
    # What the dead had sent may land between the look and the repeat: then less was missing.
    assert again.moved <= missing
    assert again.created == (not published)
    assert pulled(serving, "second:1", tmp_path / "two") == second.files
    verified(serving, "first:1")
    verified(serving, "second:1")
    assert evidence.problems() == []


@pytest.mark.parametrize("name", ["api", "worker", "weed"])
def test_a_process_that_is_killed_alone_is_replaced_and_the_push_goes_on(serving: Serving, name: str, tmp_path: Path):
    content = make_content(tmp_path / "content", Random(draw()), mib=(10, 20))
    model = f"without-{name}"
    before = [each for each in family(serving) if name in each.cmdline() or each.name() == name]
    attempt = push(serving, model, content)
    Moment(0.5, 0).wait(attempt, content.size)
    os.kill(before[0].pid, signal.SIGKILL)  # of the API the first process, whose others it takes along
    assert psutil.wait_procs(before, timeout=10)[1] == []
    ended = attempt.ended()
    assert ended.number == 1, ended.said
    time.sleep(0.5)  # or what was just killed might not have been missed yet
    until(lambda: is_ready(serving.url), "ready again")
    assert pulled(serving, f"{model}:1", tmp_path / "one") == content.files
    verified(serving, f"{model}:1")
    assert evidence_of(serving).problems() == []
