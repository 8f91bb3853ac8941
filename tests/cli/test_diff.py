"""`registry diff` as a person types it."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.test_conventions import on_a_terminal


@pytest.fixture
def pushed(registry, name, alone):
    """Three versions: the second has another head and one layer more, the third the same weights in another file."""
    random = np.random.default_rng(0)
    tensors = {f"layers.{number}.w": random.standard_normal((8, 8), dtype=np.float32) for number in (0, 2, 10)}
    tensors["head.w"] = np.ones(10, np.float32)
    save_file(tensors, alone / "m.safetensors")
    registry("push {name} m.safetensors", name=name)
    tensors |= {"head.w": np.ones(20, np.float32), "layers.11.w": np.ones(4, np.float32)}
    save_file(tensors, alone / "m.safetensors")
    registry("push {name} m.safetensors", name=name)
    save_file(tensors, alone / "m.safetensors", metadata={"epoch": "2"})
    registry("push {name} m.safetensors", name=name)
    return name


def test_the_verdict_comes_first_and_then_the_modules_as_people_count(registry, pushed):
    lines = registry("diff {a} {b}", a=f"{pushed}:1", b=f"{pushed}:2").lines
    assert lines[0] == f"{pushed}:1 → {pushed}:2  different"
    assert "1 added (16 B), 1 reshaped (80 B)" in lines[1]
    assert lines[2] == "files: m.safetensors changed"
    modules = ["head", "layers.0", "layers.2", "layers.10", "layers.11"]
    assert [line.split()[0] for line in lines[4:]] == ["MODULE", *modules]


def test_tensors_are_listed_unless_they_are_identical(registry, pushed):
    lines = registry("diff {a} {b} --tensors", a=f"{pushed}:1", b=f"{pushed}:2").lines
    assert "reshaped  head.w       F32    10 → 20" in lines[5]
    assert [line.split()[1] for line in lines[5:] if line.startswith(("reshaped", "added"))] == [
        "head.w",
        "layers.11.w",
    ]


def test_only_the_classes_asked_for_are_listed(registry, pushed):
    lines = registry("diff {a} {b} --class added", a=f"{pushed}:1", b=f"{pushed}:2").lines
    assert [line.split()[:2] for line in lines[5:]] == [["added", "layers.11.w"]]


def test_json_is_one_document_with_every_tensor(registry, pushed):
    found = json.loads(registry("diff {a} {b} --json", a=f"{pushed}:1", b=f"{pushed}:2").out)
    assert (found["verdict"], len(found["items"]), found["next"]) == ("different", 5, None)
    assert found["modules"][0]["name"] == "head"


def test_the_exit_code_says_whether_weights_differ_only_if_asked(registry, pushed):
    registry("diff {a} {b}", a=f"{pushed}:1", b=f"{pushed}:2", code=0)
    registry("diff {a} {b} --exit-code", a=f"{pushed}:1", b=f"{pushed}:2", code=1)
    done = registry("diff {a} {b} --exit-code", a=f"{pushed}:1", b=f"{pushed}:1", code=0)
    assert done.lines[0].endswith("identical: the files are the same")


def test_what_no_worker_has_read_is_not_known_yet(registry, pushed):
    done = registry("diff {a} {b} --exit-code", a=f"{pushed}:2", b=f"{pushed}:3", code=1)
    assert done.lines[0].endswith(f"not known yet, no worker has read {pushed}:2 and {pushed}:3")


def test_a_terminal_gets_a_table_that_fits(registry, pushed):
    shown = on_a_terminal("diff", f"{pushed}:1", f"{pushed}:2")
    assert all(len(line) <= 80 for line in shown.splitlines()), shown
    assert "different" in shown


def test_a_mistake_in_a_class_is_a_usage_error(typed):
    assert "'new'" in typed("diff a:1 b:1 --class new", code=2).err
