"""Comparing versions through the library, with a worker beside the registry."""

import hashlib
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

import registry
from registry.client._diff import DiffNotMeasuredError
from registry.client._errors import InvalidArgumentError
from tests.support import ROOT


@contextmanager
def worker(live):
    """A worker of this registry, as a process."""
    command = [sys.executable, "-m", "registry", "worker"]
    with (live.folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=live.environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture
def pair(client, name, weights):
    """Two versions that differ in one tensor of five, and lack one each."""
    head = np.full((80, 100), 0.5, np.float32)
    first = client.push(name, weights(gone=np.ones(3, np.float32)))
    second = client.push(name, weights(new=np.zeros(4, np.float32), **{"head.weight": head}))
    return first, second


def test_versions_are_compared_with_every_page_of_tensors(client, name, weights):
    many = {f"l.{number}.w": np.full(2, number, np.float32) for number in range(1100)}
    first = client.push(name, weights(**many))
    second = client.push(name, weights(**many, extra=np.ones(1, np.float32)))
    found = client.diff(first, second)
    assert len(found.tensors) == 1106
    assert len({tensor.name for tensor in found.tensors}) == 1106
    assert (found.a, found.b, found.next) == (first.ref, second.ref, None)
    assert found.modules
    assert [tensor.name for tensor in client.diff(first.ref, second.ref, classes=["added"]).tensors] == ["extra"]


def test_a_version_is_the_same_as_itself(client, name, weights):
    version = client.push(name, weights())
    assert client.diff(name, version).is_same


def test_without_a_worker_it_is_said_whom_one_waits_for(client, pair):
    with pytest.raises(DiffNotMeasuredError, match=r"no worker has read .*:1 and .*:2") as caught:
        client.diff(*pair, statistics=True, patience=0.5)
    assert caught.value.code == "DIFF_NOT_MEASURED"


def test_an_unknown_class_is_refused_before_anything_is_sent(tmp_path):
    client = registry.Client("http://127.0.0.1:9", "token", cache=tmp_path)
    with pytest.raises(InvalidArgumentError, match="'new'"):
        client.diff("m:1", "m:2", classes=["new"])  # type: ignore[list-item]


def test_statistics_are_waited_for_and_never_measured_twice(live, client, pair, weights):
    told = []
    with worker(live):
        found = client.diff(*pair, statistics=True, progress=lambda *step: told.append(step))
    assert (found.verdict, found.pending, found.statistics) == ("different", [], "done")
    assert {tensor.name: tensor.change for tensor in found.tensors if tensor.change != "identical"} == {
        "gone": "removed", "head.weight": "changed", "new": "added",
    }  # fmt: skip
    [changed] = [tensor for tensor in found.tensors if tensor.change == "changed"]
    before = np.random.default_rng(0)
    for shape in ((1024, 1500), (300, 1000)):
        before.standard_normal(shape, dtype=np.float32)
    array = before.standard_normal((80, 100), dtype=np.float32).astype(np.float64)
    assert changed.distance is not None
    assert changed.distance.relative_l2 == pytest.approx(np.linalg.norm(0.5 - array) / np.linalg.norm(array))
    assert changed.a is not None
    assert changed.a.digest == "sha256:" + hashlib.sha256(array.astype(np.float32).tobytes()).hexdigest()
    assert told[-1] == ("measure", 1, 1)
    assert client.diff(*pair, statistics=True, patience=0).statistics == "done"  # no worker runs any more
