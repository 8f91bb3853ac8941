import json

import pytest

from registry.cli import _health
from registry.wire import HealthOut


def said(**columns):
    defaults = {"state": "done", "tensor_count": 2, "parameter_count": 22_713_216, "nan_count": 0, "inf_count": 0}
    return _health.lines(HealthOut.model_validate(defaults | {"parameters_by_dtype": {"F32": 22_713_216}} | columns))


def test_health_is_said_in_one_line():
    told = said(parent="demo/minilm:1", norm_drift=0.0031, worst_drift=0.2, worst_tensor="head.weight")
    assert told == (
        "22,713,216 parameters (F32), no NaN, no Inf, norm drift 0.31 % against demo/minilm:1, "
        "at most 20 % in head.weight"
    )


def test_what_is_wrong_is_said_with_the_first_names():
    told = said(nan_count=7, findings={"nan": ["a", "b", "c", "d"], "zero": ["z"]})
    assert told.splitlines()[1:] == ["NaN in a, b, c …", "nothing but zeros in z"]
    assert "7 NaN" in told.splitlines()[0]
    assert "no NaN" not in told


def test_what_was_not_looked_into_is_not_called_free_of_nan():
    told = said(findings={"unread": ["q"]})
    assert "no NaN" not in told
    assert "not looked into in q" in told


@pytest.mark.parametrize(("state", "word"), [("pending", "pending"), ("failed", "failed")])
def test_a_version_that_was_not_measured_says_why(state, word):
    assert _health.lines(HealthOut(state=state)).startswith(word)


def test_files_without_tensors_say_nothing():
    assert said(tensor_count=0, parameter_count=0, parameters_by_dtype={}) == ""


def test_show_says_the_health(registry, name, alone):
    (alone / "notes.txt").write_text("x")
    registry("push {name} notes.txt", name=name)
    assert "pending: no worker has read the weights yet" in registry("show {name}", name=name).out
    shown = json.loads(registry("show {name} --json", name=name).out)
    assert (shown["health"], shown["health_details"]["state"]) == ("pending", "pending")
