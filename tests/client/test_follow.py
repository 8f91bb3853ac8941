import threading
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from registry.client._errors import InvalidArgumentError
from registry.client._follow import EveryNeedsStageError
from registry.client._held import AlreadyFollowedError, DirectoryTakenError
from registry.domain.errors import RegistryError
from tests.client.conftest import arrays

HEADS = [np.full((80, 100), value, np.float32) for value in range(5)]


@pytest.fixture
def model(client, name, weights):
    """Versions 1 to 4, each with another head; 1 is in production."""
    for head in HEADS[1:]:
        client.push(name, weights(**{"head.weight": head}))
    client.promote(f"{name}:1", to="production")
    return name


def head(directory: Path) -> float:
    return float(load_file(directory / "model.safetensors")["head.weight"][0, 0])


def follow(client, ref, directory=None, **more):
    return closing(client.follow(ref, directory, poll=0.05, **more))


def test_the_present_version_comes_first_and_then_each_new_one(client, model):
    with follow(client, f"{model}@production") as versions:
        assert next(versions).number == 1
        client.promote(f"{model}:3", to="production")
        assert next(versions).number == 3
        client.rollback(model, "production")
        assert next(versions).number == 1


def test_what_nobody_took_in_time_is_passed_over(client, model):
    with follow(client, f"{model}@production") as versions:
        next(versions)
        for number in (2, 3, 4):
            client.promote(f"{model}:{number}", to="production")
        assert next(versions).number == 4


def test_every_change_of_a_stage_can_be_visited_in_order(client, model):
    with follow(client, f"{model}@production", every=True) as versions:
        next(versions)
        for number in (2, 3):
            client.promote(f"{model}:{number}", to="production")
        client.demote(model, "production")
        client.promote(f"{model}:2", to="production")
        assert [each.number for each in islice(versions, 3)] == [2, 3, 2]


def test_an_alias_the_newest_and_the_best_can_be_followed(client, model, weights):
    client.update_model(model, objective={"metric": "mAP", "direction": "max"})
    client.set_alias(f"{model}:1", "champion")
    client.log_metrics(f"{model}:2", {"mAP": 0.5})
    with (
        follow(client, f"{model}@champion") as champions,
        follow(client, model) as newest,
        follow(client, f"{model}@best") as best,
    ):
        assert [next(each).number for each in (champions, newest, best)] == [1, 4, 2]
        client.set_alias(f"{model}:2", "champion")
        client.log_metrics(f"{model}:1", {"mAP": 0.7})
        client.push(model, weights(**{"head.weight": HEADS[0]}))
        assert [next(each).number for each in (champions, newest, best)] == [2, 5, 1]


def test_a_directory_is_always_one_whole_version(client, model, tmp_path):
    held = tmp_path / "held"
    with follow(client, f"{model}@production", held) as versions:
        next(versions)
        assert head(held) == 1
        before = held.resolve()
        client.promote(f"{model}:3", to="production")
        next(versions)
        assert head(held) == 3
        assert head(before) == 1  # until the next one is asked for
        client.promote(f"{model}:2", to="production")
        next(versions)
        assert not before.exists()
        assert head(held) == 2
    assert held.is_symlink()
    assert sorted(each.name for each in held.resolve().iterdir()) == [".registry", "model.safetensors"]


def test_only_the_difference_travels_and_what_is_the_same_is_the_same_file(live, model, weights, tmp_path):
    with live.client(cache=tmp_path / "empty") as client:
        labels = tmp_path / "labels.txt"
        labels.write_text("cat\n" * 1000)
        first = client.push(model, [weights(), labels])
        second = client.push(model, [weights(**{"head.weight": HEADS[1]}), labels])
        client.promote(first.ref, to="staging")
        moved = []
        pull = client.pull
        client.pull = lambda *given, **more: pull(*given, **more, progress=lambda *said: moved.append(said))
        with follow(client, f"{model}@staging", tmp_path / "held") as versions:
            next(versions)
            client.promote(second.ref, to="staging")
            next(versions)
            same = [each / "labels.txt" for each in (tmp_path / ".held.follow/versions").iterdir()]
            assert len({path.stat().st_ino for path in same}) == 1
        steps = [(done, total) for phase, done, total in moved if phase == "moved"]
        assert steps[0][0] > steps[0][1] * 0.9
        assert steps[1][0] < steps[1][1] * 0.1


def test_an_empty_stage_is_waited_for_and_leaves_the_directory_as_it_is(client, model, tmp_path):
    said: list[str] = []
    with follow(client, f"{model}@production", tmp_path / "held", log=said.append) as versions:
        next(versions)
        client.demote(model, "production")
        threading.Timer(0.5, client.promote, [f"{model}:2"], {"to": "production"}).start()
        assert next(versions).number == 2
    assert said == [f"nothing holds {model}@production; {tmp_path / 'held'} stays as it is"]


def test_a_second_one_on_the_same_directory_is_refused(client, model, tmp_path):
    with follow(client, f"{model}@production", tmp_path / "held") as versions:
        next(versions)
        with follow(client, f"{model}@staging", tmp_path / "held") as others, pytest.raises(AlreadyFollowedError):
            next(others)
    with follow(client, f"{model}@production", tmp_path / "held") as versions:
        assert next(versions).number == 1


def test_a_directory_with_files_of_its_own_is_left_alone(client, model, tmp_path):
    for taken in (tmp_path / "full", tmp_path / "link"):
        (tmp_path / "full").mkdir(exist_ok=True)
        (tmp_path / "full/mine.txt").write_text("mine")
        if not taken.exists():
            taken.symlink_to("full")
        with follow(client, f"{model}@production", taken) as versions, pytest.raises(DirectoryTakenError):
            next(versions)
    assert (tmp_path / "full/mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    with follow(client, f"{model}@production", tmp_path / "empty") as versions:
        next(versions)
    assert head(tmp_path / "empty") == 1


def test_a_file_that_was_changed_in_place_does_not_reach_the_next_version(client, model, tmp_path):
    with follow(client, f"{model}@production", tmp_path / "held") as versions:
        next(versions)
        file = tmp_path / "held/model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        client.promote(f"{model}:2", to="production")
        next(versions)
        np.testing.assert_array_equal(load_file(file)["body.weight"], arrays()["body.weight"])


def test_the_registry_shows_what_runs_here(client, model, tmp_path):
    def runs():
        found = client.stage(model, "production")
        return found.consumers

    with follow(client, f"{model}@production", tmp_path / "held", name="edge-1") as versions:
        next(versions)
        until(lambda: runs() == {"1": 1})
        client.promote(f"{model}:2", to="production")
        next(versions)
        until(lambda: runs() == {"2": 1})
        [consumer] = client.consumers(model)
        assert (consumer.name, consumer.follows, consumer.seq) == ("edge-1", f"{model}@production", 2)
        assert client.preview(f"{model}:3", to="production").consumers == 1
    assert runs() == {}


def test_what_no_waiting_cures_is_raised(client, model, name, live):
    for ref, expected in (("nothing@production", "MODEL_NOT_FOUND"), (f"{model}@nobody", "POINTER_NOT_FOUND")):
        with follow(client, ref) as versions, pytest.raises(RegistryError) as refusal:
            next(versions)
        assert refusal.value.code == expected
    with live.client(token="a-secret-that-nobody-was-given") as stranger:
        with follow(stranger, f"{model}@production") as versions, pytest.raises(RegistryError) as refusal:
            next(versions)
        assert refusal.value.code == "UNKNOWN_TOKEN"
    for ref in (model, f"{model}@best", f"{model}:1", f"{model}@champion"):
        client.set_alias(f"{model}:1", "champion")
        with follow(client, ref, every=True) as versions, pytest.raises(EveryNeedsStageError):
            next(versions)
    with pytest.raises(InvalidArgumentError):
        next(client.follow(model, poll=0))


def until(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
