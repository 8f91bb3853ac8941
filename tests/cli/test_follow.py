import json
import os
import signal
import sys
import time

import pytest

from tests.cli.conftest import write
from tests.support.following import FollowProcess


@pytest.fixture
def model(registry, name, alone):
    """Versions 1 to 3; 1 is in production."""
    for number in (1, 2, 3):
        registry("push {name} {file}", name=name, file=write(alone / "m.safetensors", head=float(number)))
    registry("promote {name}:1 --to production", name=name)
    return name


@pytest.fixture
def follow(model, alone):
    started = []

    def start(*options, **more):
        made = FollowProcess(alone / "follow", f"{model}@production", os.environ, *options, **more)
        started.append(made)
        made.start()
        return made

    yield start
    for each in started:
        if each.process is not None:
            each.stop(signal.SIGKILL)


def test_the_command_runs_once_for_each_change_that_lasts(registry, model, follow):
    follower = follow()
    follower.wait_for(1)
    registry("promote {name}:3 --to production", name=model)
    follower.wait_for(2)
    assert follower.stop() == 0
    assert [(run.seq, run.version) for run in follower.runs()] == [(1, 1), (2, 3)]
    assert follower.said.read_text().endswith("stopped\n")


def test_what_was_dealt_with_is_not_repeated_by_the_next_one(registry, model, follow):
    first = follow()
    first.wait_for(1)
    first.stop()
    second = follow()
    time.sleep(1)
    registry("promote {name}:2 --to production", name=model)
    second.wait_for(2)
    assert [run.seq for run in second.runs()] == [1, 2]


def test_sigterm_lets_the_command_end_and_notes_that_it_did(registry, model, follow):
    follower = follow(seconds=2)
    until_running(follower)
    assert follower.stop() == 0
    assert [(run.seq, run.ended) for run in follower.runs()] == [(1, True)]
    assert follower.mark()["state"] == "done"
    assert follower.said.read_text().endswith("stopped\n")


def test_a_command_left_by_one_that_was_killed_is_waited_for_and_run_again(registry, model, follow):
    first = follow(seconds=6)
    until_running(first)
    first.kill()
    second = follow()
    end = time.monotonic() + 30
    while [run.ended for run in second.runs()] != [True, True]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert [line[0] for line in second.lines()] == ["start", "end", "start", "end"]
    assert "still runs" in second.said.read_text()


def test_changes_while_the_command_runs_are_one_unless_each_counts(registry, model, follow):
    follower = follow(seconds=2)
    until_running(follower)
    for number in (2, 3, 2):
        registry("promote {name}:{number} --to production", name=model, number=number)
    follower.wait_for(4)
    follower.stop()
    assert [(run.seq, run.version) for run in follower.runs()] == [(1, 1), (4, 2)]


def test_every_change_is_visited_in_order_also_those_of_an_outage(registry, model, follow):
    follower = follow("--every")
    follower.wait_for(1)
    follower.stop()
    for number in (2, 3):
        registry("promote {name}:{number} --to production", name=model, number=number)
    again = follow("--every")
    registry("demote {name} production", name=model)
    registry("promote {name}:1 --to production", name=model)
    again.wait_for(5)
    assert [(run.seq, run.version) for run in again.runs()] == [(1, 1), (2, 2), (3, 3), (5, 1)]


def test_one_that_was_killed_and_comes_again_is_not_counted_twice(registry, model, follow, live):
    with live.client() as client:
        for _ in range(2):
            follower = follow()
            follower.wait_for(1)
            end = time.monotonic() + 30
            while client.stage(model, "production").consumers != {"1": 1}:
                assert time.monotonic() < end
                time.sleep(0.05)
            follower.kill()
        assert len(list(client.consumers(model))) == 1


def test_a_second_one_on_the_same_directory_is_refused(registry, model, follow):
    follower = follow()
    follower.wait_for(1)
    done = registry("follow {name}@production -o {held}", name=model, held=follower.held, code=1)
    assert "[ALREADY_FOLLOWED]" in done.err


def test_a_command_that_fails_is_told_and_not_repeated(registry, model, alone, live):
    follower = FollowProcess(
        alone / "follow", f"{model}@production", os.environ, "--exec", "sh -c 'exit 3'", "--name", "x"
    )
    follower.start()
    end = time.monotonic() + 30
    while "ended with 3" not in follower.said.read_text() or "running" in follower.mark()["state"]:
        assert time.monotonic() < end, follower.said.read_text()
        time.sleep(0.05)
    with live.client() as client:
        while not any(each.state == "failed" for each in client.consumers(model)):
            assert time.monotonic() < end
            time.sleep(0.05)
        [consumer] = client.consumers(model)
    assert (consumer.name, consumer.number, consumer.detail) == ("x", 1, "the command ended with 3")
    time.sleep(0.5)
    follower.stop()
    assert follower.said.read_text().count("ended with 3") == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--exec", f"{sys.executable} -c \"import os; print(os.environ['REGISTRY_SEQ'], 'a b')\""], "1 a b"),
        (
            ["--exec", "echo $REGISTRY_SEQ $REGISTRY_REF > $REGISTRY_DIR.out; cat $REGISTRY_DIR.out", "--shell"],
            "1 {ref}",
        ),
        (["--exec", "nothing-of-that-name"], "cannot be run"),
    ],
    ids=["words", "shell", "nothing"],
)
def test_the_command_is_words_or_what_a_shell_makes_of_it(registry, model, alone, options, expected):
    follower = FollowProcess(alone / "follow", f"{model}@production", os.environ, *options)
    follower.start()
    wanted = expected.format(ref=f"{model}@production")
    end = time.monotonic() + 30
    while wanted not in follower.said.read_text():
        assert time.monotonic() < end, follower.said.read_text()
        time.sleep(0.05)
    follower.stop()


def test_without_a_command_each_change_is_a_line(registry, model, alone):
    follower = FollowProcess(alone / "follow", f"{model}@production", os.environ)
    follower.arguments[follower.arguments.index("--exec") :] = ["--json"]
    follower.start()
    end = time.monotonic() + 30
    while not (lines := follower.said.read_text().splitlines()):
        assert time.monotonic() < end
        time.sleep(0.05)
    follower.stop()
    assert json.loads(lines[0]) == {
        "ref": f"{model}@production", "seq": 1, "model": model, "version": 1, "directory": str(follower.held),
    }  # fmt: skip


def test_show_says_who_runs_what(registry, model, follow, alone):
    follower = follow()
    follower.wait_for(1)
    end = time.monotonic() + 30
    while "production: 1 consumer runs 1" not in registry("show {name}:1", name=model).out:
        assert time.monotonic() < end
    follower.kill()  # it says nothing any more, and is remembered for a while
    registry("promote {name}:2 --to production", name=model)
    assert "production: 0 consumers run 2, 1 still runs 1" in registry("show {name}@production", name=model).out
    asked = registry("promote {name}:3 --to production --dry-run", name=model)
    assert f"1 consumers follow {model}@production" in asked.err


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("follow m@production --shell", 2, "[USAGE]"),
        ("follow m@production --exec '\"'", 2, "[USAGE]"),
        ("follow m:x", 1, "[INVALID_REFERENCE]"),
        ("follow m --every", 1, "[EVERY_NEEDS_STAGE]"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(registry, line, code, said):
    assert said in registry(line, code=code).err


def until_running(follower):
    end = time.monotonic() + 30
    while not follower.runs():
        assert time.monotonic() < end, follower.said.read_text()
        time.sleep(0.02)
