"""Several processes of one machine that want the same version: one fetches it, the others use what it brought."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.client.conftest import arrays
from tests.support import ROOT
from tests.support.live import TOKEN

# Pulls or loads, and prints what it fetched from the store itself.
PROGRAM = """
import json, sys, time
from pathlib import Path
import registry
from registry.client import _pull

fetched = []
fetch_file = _pull.fetch_file

def counting(*arguments, **options):
    report = fetch_file(*arguments, **options)
    fetched.append((report.fetched_bytes, report.resumed_bytes))
    return report

_pull.fetch_file = counting
url, token, cache, ref, what = sys.argv[1:]
seen = []
with registry.Client(url, token, cache=Path(cache)) as client:
    print("ready", flush=True)
    sys.stdin.readline()
    if what == "pull":
        client.pull(ref, progress=lambda phase, done, total: seen.append(phase))
        total = 0.0
    else:
        total = sum(float(array.sum()) for array in client.load(ref, mmap=True).values())
print(json.dumps({"fetched": sum(each for each, _ in fetched), "resumed": sum(each for _, each in fetched),
                  "waited": "wait" in seen, "sum": total}))
"""


def begin(live, cache: Path, ref: str, what: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, live.url, TOKEN, str(cache), ref, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def finish(process: "subprocess.Popen[str]") -> dict:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return dict(json.loads(out.splitlines()[-1]))


@pytest.mark.parametrize("what", ["pull", "load"])
def test_four_processes_fetch_a_version_once(live, client, weights, tmp_path, what):
    path = weights(seed=21)
    ref = client.push(f"default/shared-{what}", path).ref
    processes = [begin(live, tmp_path / "shared", ref, what) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        go(process)
    found = [finish(process) for process in processes]
    assert sorted(each["fetched"] for each in found) == [0, 0, 0, path.stat().st_size]
    if what == "load":
        expected = sum(float(array.sum()) for array in arrays(21).values())
        assert all(np.isclose(each["sum"], expected) for each in found)


def test_when_the_one_that_fetches_is_killed_the_next_goes_on_where_it_was(live, client, name, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(150 << 20))
    ref = client.push(name, path).ref
    first = begin(live, tmp_path / "shared", ref, "pull")
    go(first)
    _wait_for_bytes(tmp_path / "shared")
    second = begin(live, tmp_path / "shared", ref, "pull")
    go(second)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    if first.returncode == 0:
        pytest.skip("it was done before it could be killed")
    found = finish(second)
    assert found["fetched"] + found["resumed"] == path.stat().st_size
    assert found["resumed"] > 0
    assert (client.pull(ref, tmp_path / "copy") / "weights.bin").read_bytes() == path.read_bytes()


def _wait_for_bytes(cache: Path) -> None:
    """Until some of the file has arrived: its first block is no longer a hole."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for part in cache.rglob("*.part"):
            with part.open("rb") as file:
                block = file.read(1 << 20)
                if any(block[-4096:]):
                    return
        time.sleep(0.002)
    raise AssertionError("nothing arrives")
