"""The registry, and the one that follows it, are killed outright while a stage moves."""

import hashlib
import os
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.faults.scene import SOAK, draw
from tests.support.chaos import Arena, arena, client_environ, until
from tests.support.following import FollowProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("chaos-follow")]
FEW, MANY = pytest.param(5, id="few"), pytest.param(20, id="many", marks=SOAK)
MODEL = "default/followed"
VERSIONS = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    with arena(tmp_path_factory.mktemp("follow"), "sqlite") as found:
        yield found


def publish(made: Arena, random: Random) -> dict[int, dict[str, str]]:
    """Versions of three files each: one that all share, one of a size of its own. Gives sha256 by path, by number."""
    found = {}
    with made.live.client() as client:
        for number in range(1, VERSIONS + 1):
            folder = made.folder / f"v{number}"
            (folder / "deep").mkdir(parents=True)
            (folder / "same.bin").write_bytes(bytes(3_000_000))
            (folder / "deep/own.bin").write_bytes(random.randbytes(random.randint(1, 4_000_000)))
            (folder / "number.txt").write_text(f"{number}\n")
            assert client.push(MODEL, folder).number == number
            found[number] = content(folder)
    return found


def content(folder: Path) -> dict[str, str]:
    """Of one directory throughout, also when the link that led to it has moved on."""
    start = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = {}
        for place, folders, names, descriptor in os.fwalk(dir_fd=start):
            folders[:] = [each for each in folders if each != ".registry"]
            for name in names:
                opened = os.open(name, os.O_RDONLY, dir_fd=descriptor)
                with os.fdopen(opened, "rb") as file:
                    found[os.path.normpath(f"{place}/{name}")] = hashlib.sha256(file.read()).hexdigest()
        return found
    finally:
        os.close(start)


class Reader(threading.Thread):
    """Reads the directory over and over, as a server that reloads would."""

    def __init__(self, held: Path, versions: dict[int, dict[str, str]]) -> None:
        super().__init__(daemon=True)
        self.held, self.versions = held, versions
        self.seen: Counter[int] = Counter()
        self.wrong: list[dict[str, str]] = []
        self.over = threading.Event()

    def run(self) -> None:
        by_content = {tuple(sorted(files.items())): number for number, files in self.versions.items()}
        while not self.over.wait(0.005):
            before = self.held.readlink() if self.held.is_symlink() else None
            try:
                found = content(self.held)
            except FileNotFoundError:
                found = {}
            if os.path.lexists(self.held) and self.held.readlink() != before:
                continue  # what it led to may have been removed meanwhile: look again
            number = by_content.get(tuple(sorted(found.items())))
            if number is not None:
                self.seen[number] += 1
            elif before is not None:
                self.wrong.append(found)


@pytest.mark.parametrize("rounds", [FEW, MANY])
def test_the_directory_is_whole_and_the_command_ran_for_the_last_state(made: Arena, rounds: int, tmp_path: Path):
    random = Random(seed := draw())
    versions = (
        publish(made, random)
        if not (made.folder / "v1").exists()
        else {number: content(made.folder / f"v{number}") for number in range(1, VERSIONS + 1)}
    )
    environ = client_environ(tmp_path, made.live.url, "a-secret-of-the-operator-of-this-test")
    follower = FollowProcess(tmp_path / "follow", f"{MODEL}@production", environ, seconds=0.2)
    reader = Reader(follower.held, versions)
    may_repeat: Counter[int] = Counter()
    holder = seq = 0
    with made.live.client() as client:
        follower.start()
        reader.start()
        for _ in range(rounds):
            holder = random.choice([number for number in versions if number != holder])
            seq = client.promote(f"{MODEL}:{holder}", to="production").seq or 0
            wait_a_while(follower, seq, random)
            victims = random.choice((["follower"], ["follower"], ["api"], ["follower", "api"]))
            for victim in victims:
                if victim == "api":
                    made.kill("api")
                    continue
                follower.kill()
                mark = follower.mark()
                if mark.get("state") == "running":
                    may_repeat[mark["seq"]] += 1
            time.sleep(random.uniform(0, 0.5))
            if "follower" in victims:
                follower.start()
            if "api" in victims:
                made.restore("api")
        follower.wait_for(seq)
        until(lambda: follower.mark().get("state") == "done", "the last run is noted")
        assert content(follower.held) == versions[holder]
        holder = holder % VERSIONS + 1
        seq = client.promote(f"{MODEL}:{holder}", to="production", message="nothing disturbs this one").seq or 0
        follower.wait_for(seq)
    until(lambda: follower.mark().get("state") == "done", "the last run is noted")
    assert follower.stop() == 0
    reader.over.set()
    reader.join()
    runs = follower.runs()
    print(f"seed {seed}: {len(runs)} runs for {len({run.seq for run in runs})} of {rounds} seqs, {reader.seen}")
    assert reader.wrong == []
    assert sum(reader.seen.values()) > 0
    assert content(follower.held) == versions[holder]
    assert (runs[-1].seq, runs[-1].version) == (seq, holder)
    assert [run.seq for run in runs] == sorted(run.seq for run in runs)
    assert all(run.ended for run in runs)  # nobody killed the command, and none ran beside another
    counts = Counter(run.seq for run in runs)
    assert {each: count for each, count in counts.items() if count > 1 + may_repeat[each]} == {}
    assert mark_of_one_version(follower.held)


def wait_a_while(follower: FollowProcess, seq: int, random: Random) -> None:
    """Until some seconds are over, or soon after the follower has come to the last promotion, or has dealt with it."""
    end, wanted = time.monotonic() + random.uniform(0, 4), random.choice(("", "running", "done"))
    while time.monotonic() < end:
        mark = follower.mark()
        if mark.get("seq") == seq and mark["state"] == wanted:
            time.sleep(random.uniform(0, 0.4))
            return
        time.sleep(0.01)


def mark_of_one_version(held: Path) -> bool:
    """Nothing is left of the others."""
    return [each.name for each in (held.parent / ".held.follow/versions").iterdir()] == [held.resolve().name]
