"""The walk of `make demo` beside a running `registry serve`, and what it promises, asked once more from outside."""

import hashlib
import json
import subprocess
import sys

import httpx2
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from benchmarks.demo import HEAD, LIMIT, MODEL, ONE_TENSOR, SOURCE, Demo, real_weights, rounded, sha256, widened
from benchmarks.serving import Serving
from tests.support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def serving(folder):
    serving = Serving(folder / "stack")
    serving.start()
    yield serving
    serving.stop()


@pytest.fixture(scope="module")
def demo(serving, folder):
    demo = Demo(serving, folder / "files")
    demo.run()
    yield demo
    demo.client.close()


def curl(demo, number, *options):
    url = f"{demo.serving.url}/api/v1/models/{MODEL}/versions/{number}/artifacts/model.safetensors"
    command = ["curl", "-sSL", "-H", "@-", *options, url]
    token = f"Authorization: Bearer {demo.serving.token}\n"
    done = subprocess.run(command, input=token.encode(), capture_output=True, check=True)
    return done.stdout


def headers(text):
    lines = text.decode().split("\r\n\r\n")[-2].splitlines()
    return lines[0].split()[1], {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}


def test_nothing_is_other_than_it_must_be(demo):
    assert demo.failed == []
    assert [pushed.version.number for pushed in demo.pushed] == [1, 2, 3]


def test_the_weights_are_real_and_what_is_made_of_them_is_what_it_says(demo):
    base, tuned, half = (pushed.file for pushed in demo.pushed)
    assert sha256(base) == sha256(real_weights())
    before, after = load_file(base), load_file(tuned)
    changed = {name for name, tensor in before.items() if not np.array_equal(tensor, after[name])}
    assert changed == {name for name in before if name.startswith(HEAD)}
    with safe_open(half, "np") as converted:
        kinds = {name: converted.get_slice(name).get_dtype() for name in converted.keys()}  # noqa: SIM118 - not a dict
    floats = {name for name, tensor in before.items() if tensor.dtype == np.float32}
    assert {name for name, kind in kinds.items() if kind == "BF16"} == floats
    assert kinds.keys() == before.keys()


def test_rounding_to_bfloat16_is_to_the_nearest_and_then_to_even():
    given = np.array([1.0, 1.00390625, 1.01171875, -1.005, np.inf, 0.0], "f4")
    assert widened(rounded(given)).tolist() == [1.0, 1.0, 1.015625, -1.0078125, np.inf, 0.0]


def test_a_head_only_fine_tune_moves_and_stores_next_to_nothing(demo):
    tuned = demo.pushed[1]
    assert 0 < tuned.transfer.moved <= LIMIT * tuned.size
    assert 0 < tuned.stored <= LIMIT * tuned.size
    # Over its parent, as a serving machine would have it, the pull moves as little.
    assert demo.pulled[0][1].moved == demo.pushed[0].size
    assert 0 < demo.pulled[1][1].moved <= LIMIT * tuned.size


def test_the_second_push_of_a_file_moves_nothing(demo, tmp_path):
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(demo.pushed[1].file.read_bytes())
    stored = demo.client.storage()
    again = demo.client.push(MODEL, copy, parents=[f"{MODEL}:1"], message="only the pooler was trained")
    assert (again.number, again.created, again.transfer.moved) == (2, False, 0)
    other = demo.client.push("text/other", copy)
    assert (other.number, other.created, other.transfer.moved) == (1, True, 0)
    after = demo.client.storage()
    assert (after.stored_bytes, after.objects) == (stored.stored_bytes, stored.objects)


def test_the_family_tree_leads_to_the_source(demo):
    parents = {pushed.version.number: demo.client.version(pushed.version).parents for pushed in demo.pushed}
    assert {number: [(edge.relation, edge.ref, edge.uri) for edge in edges] for number, edges in parents.items()} == {
        1: [("finetune", None, SOURCE)],
        2: [("finetune", f"{MODEL}:1", None)],
        3: [("convert", f"{MODEL}:1", None)],
    }
    assert demo.client.version(f"{MODEL}:3").variant == "safetensors-bf16"
    assert demo.client.resolve(MODEL).number == 2  # the highest that is an original


def test_metrics_are_kept_as_measured(demo):
    measured = {pushed.version.number: demo.client.version(pushed.version).metrics for pushed in demo.pushed}
    assert measured[1]["parameters"] == 22_713_216
    assert measured[2]["parameters-trained"] == 147_840
    assert 0 < measured[3]["worst-relative-error"] < 0.004  # 2**-8: half a step of eight significant bits


def test_whole_files_come_back_through_a_fresh_cache(demo, tmp_path):
    with demo.serving.client(cache=tmp_path / "cache") as fresh:
        for pushed in demo.pushed:
            path = fresh.pull(pushed.version, tmp_path / str(pushed.version.number), verify_file=True)
            assert sha256(path / "model.safetensors") == sha256(pushed.file)


def test_one_tensor_is_loaded_without_the_rest(demo, tmp_path):
    with demo.serving.client(cache=tmp_path / "cache") as fresh:
        found = fresh.load(f"{MODEL}@production", tensors=[ONE_TENSOR])
    assert np.array_equal(found[ONE_TENSOR], load_file(demo.pushed[0].file)[ONE_TENSOR])
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("index", range(3))
def test_curl_gets_the_whole_a_range_and_the_head(demo, index):
    pushed = demo.pushed[index]
    content = pushed.file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    number = pushed.version.number
    assert hashlib.sha256(curl(demo, number)).hexdigest() == digest
    for first, last in ((0, 0), (7, 4_200_000), (len(content) - 5, len(content) - 1)):
        assert curl(demo, number, "-r", f"{first}-{last}") == content[first : last + 1]
    assert curl(demo, number, "-r", "-9") == content[-9:]
    status, answered = headers(curl(demo, number, "-r", "10-19", "-D", "-", "-o", "/dev/null"))
    assert status == "206"
    assert answered["content-range"] == f"bytes 10-19/{len(content)}"
    status, answered = headers(curl(demo, number, "-I"))
    assert status == "200"
    assert answered["content-length"] == str(len(content))
    assert answered["accept-ranges"] == "bytes"
    assert digest in answered["etag"]


def test_a_digest_with_everything_in_the_cache_makes_no_request(demo, tmp_path):
    tuned = demo.pushed[1]
    reference = f"{MODEL}@{tuned.version.digest}"
    with demo.serving.client(cache=tmp_path / "cache") as client:
        client.pull(reference)
    assert demo.serving.stop() == 0
    try:
        with demo.serving.client(cache=tmp_path / "cache") as offline:
            kept = offline.pull(reference)
            assert sha256(kept / "model.safetensors") == sha256(tuned.file)
            placed = offline.pull(reference, tmp_path / "weights")
            assert sha256(placed / "model.safetensors") == sha256(tuned.file)
            (tensor,) = offline.load(reference, tensors=[ONE_TENSOR]).values()
            assert np.array_equal(tensor, load_file(tuned.file)[ONE_TENSOR])
    finally:
        demo.serving.start()


def test_the_history_answers_after_a_restart(demo):
    history = [(item.seq, item.kind, item.version, item.previous) for item in demo.client.history(MODEL, "production")]
    assert history == [(3, "rollback", 1, 2), (2, "promote", 2, 1), (1, "promote", 1, None)]
    (third, second, _) = demo.client.history(MODEL, "production")
    assert demo.client.stage(MODEL, "production", when=second.at).version == 2
    assert demo.client.stage(MODEL, "production", when=third.at).version == 1
    answer = httpx2.get(
        f"{demo.serving.url}/api/v1/models/{MODEL}/stages/production",
        headers={"Authorization": f"Bearer {demo.serving.token}"},
        trust_env=False,
    )
    assert json.loads(answer.content)["version"] == 1


def test_without_the_weights_one_line_says_what_to_do(tmp_path):
    code = (
        "import sys; sys.argv = ['demo']; from benchmarks import demo; demo._PACKAGE = 'absent'; sys.exit(demo.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith("is not installed: run 'make setup'.")
    assert done.stderr == ""
