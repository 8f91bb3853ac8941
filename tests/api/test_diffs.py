"""What changed between two versions that were really pushed."""

import json
import struct
from urllib.parse import quote

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import event, select

from registry.db.queue import runs
from registry.db.session import now
from registry.db.tables import StoredObject, TensorDiff, Version
from registry.services import diffs, measuring
from registry.services.diffs import MEASURE
from tests.support.pushing import push
from tests.support.reading import read_tensors
from tests.support.world import code
from tests.weights.torch_file import ordered, saved, tensor

BASE = {
    "layers.0.w": np.arange(64, dtype=np.float32).reshape(8, 8),
    "layers.0.b": np.ones(8, np.float32),
    "layers.1.w": np.full((8, 8), 2, np.float32),
    "head.w": np.arange(16, dtype=np.float32),
}


@pytest.fixture
def parts(app):
    return app.extensions["registry"]


@pytest.fixture
def versions(http, parts):
    """Pushes files, or one safetensors file of arrays, and has their tensors read; gives the number."""

    def publish(*contents, model="vision/m", read=True):
        for content in contents:
            is_files = any(isinstance(value, bytes) for value in content.values())
            push(http, model, content if is_files else {"m.safetensors": save(content)}, new=True)
        if read:
            read_tensors(parts)

    return publish


@pytest.fixture
def diff(http):
    def ask(query="", a=1, b="vision/m:2", **more):
        answer = http.get(path(a, b) + query, **more)
        assert answer.status_code == 200, answer.text
        return answer.json

    return ask


def path(a=1, b="vision/m:2", *, model="vision/m"):
    return f"/models/{model}/versions/{a}/diff/{quote(b, safe='')}"


def work(parts):
    """What a worker does when it is asked to measure versions 1 and 2; gives the number of tensors it read."""
    with parts.database.transaction(read_only=True) as session:
        a, b = session.scalars(select(Version.id).order_by(Version.id).limit(2)).all()
        tasks = diffs.tasks(session, a, b)
    for batch in diffs.batches(tasks, 1 << 20):
        found = measuring.distances(parts.store, batch)
        with parts.database.transaction() as session:
            diffs.record(session, found, now=now(session))
    return len(tasks)


def classes(answer):
    return {item["name"]: item["change"] for item in answer["items"]}


def but(**changes):
    """The base with other tensors; None takes one away."""
    return {name: value for name, value in (BASE | changes).items() if value is not None}


def test_every_class_of_change_is_told_from_digests(versions, diff):
    after = but(
        **{
            "layers.0.b": np.zeros(8, np.float32),
            "layers.1.w": np.full((4, 16), 2, np.float32),
            "head.w": None,
            "classifier.w": BASE["head.w"],
            "extra": np.ones(3, np.float32),
        }
    )
    before = but(gone=np.ones(5, np.float32), half=np.ones(4, np.float32))
    versions(before, after | {"half": np.ones(4, np.float16)})
    answer = diff()
    assert classes(answer) == {
        "classifier.w": "renamed", "extra": "added", "gone": "removed", "half": "retyped", "layers.0.b": "changed",
        "layers.0.w": "identical", "layers.1.w": "reshaped",
    }  # fmt: skip
    assert (answer["a"], answer["b"], answer["verdict"], answer["pending"]) == (
        "vision/m:1", "vision/m:2", "different", [],
    )  # fmt: skip
    assert answer["summary"]["changed"] == {"count": 1, "size": 32}
    assert answer["summary"]["removed"] == {"count": 1, "size": 20}
    renamed = next(item for item in answer["items"] if item["change"] == "renamed")
    assert (renamed["a"]["name"], renamed["b"]["name"]) == ("head.w", "classifier.w")
    assert [(each["name"], each["changed_size"]) for each in answer["modules"]] == [
        ("", 12 + 20 + 8), ("classifier", 0), ("layers.0", 32), ("layers.1", 256),
    ]  # fmt: skip
    assert [(each["path"], each["change"]) for each in answer["artifacts"]] == [("m.safetensors", "changed")]
    assert answer["statistics"] is None


def test_a_version_is_identical_to_itself_and_to_its_copy(http, versions, diff):
    versions(BASE, read=False)
    http.post("/models/vision/m/versions/1/copy", json={"to": "other/m"})
    assert diff(b="vision/m:1")["verdict"] == "identical"
    answer = diff(b="other/m:1")
    assert (answer["verdict"], set(classes(answer).values())) == ("identical", {"identical"})


def test_other_metadata_are_the_same_weights(versions, diff):
    versions({"m.safetensors": save(BASE)}, {"m.safetensors": save(BASE, metadata={"epoch": "7"})})
    assert diff()["verdict"] == "same_weights"


def test_another_order_of_tensors_are_the_same_weights(versions, diff):
    def written(names):
        header, data = {}, b""
        for name in names:
            raw = BASE[name].tobytes()
            offsets = [len(data), len(data) + len(raw)]
            header[name] = {"dtype": "F32", "shape": list(BASE[name].shape), "data_offsets": offsets}
            data += raw
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    versions({"m.safetensors": written(BASE)}, {"m.safetensors": written(reversed(BASE))})
    assert diff()["verdict"] == "same_weights"


def test_a_checkpoint_cut_into_other_shards_is_the_same_weights(versions, diff):
    names = list(BASE)
    half = [{name: BASE[name] for name in some} for some in (names[:2], names[2:])]
    shards = {f"m-0000{number}-of-00002.safetensors": save(tensors) for number, tensors in enumerate(half, 1)}
    versions({"m.safetensors": save(BASE)}, shards)
    answer = diff()
    assert answer["verdict"] == "same_weights"
    assert sorted(each["change"] for each in answer["artifacts"]) == ["added", "added", "removed"]


def test_a_state_dict_of_torch_is_the_same_weights_as_its_safetensors(versions, diff):
    made = {name: tensor(str(key), *array.shape) for key, (name, array) in enumerate(BASE.items())}
    storages = {str(key): array.tobytes() for key, array in enumerate(BASE.values())}
    versions({"m.pt": saved(ordered(made), storages)}, {"m.safetensors": save(BASE)})
    answer = diff()
    assert (answer["verdict"], set(classes(answer).values())) == ("same_weights", {"identical"})
    assert {each["path"]: each["change"] for each in answer["artifacts"]} == {
        "m.pt": "removed",
        "m.safetensors": "added",
    }


def test_files_that_cannot_be_looked_into_are_compared_as_files(versions, diff):
    weights = {"m.safetensors": save(BASE)}
    versions(weights | {"opt.pkl": b"\x80\x04K\x01."}, weights | {"opt.pkl": b"\x80\x04K\x02."})
    answer = diff()
    assert answer["verdict"] == "different"
    assert set(classes(answer).values()) == {"identical"}
    assert {each["path"]: each["change"] for each in answer["artifacts"]} == {
        "m.safetensors": "identical", "opt.pkl": "changed",
    }  # fmt: skip


def test_while_digests_are_pending_the_answer_says_whose(versions, diff, parts):
    versions(BASE)
    versions(but(**{"head.w": np.zeros(16, np.float32)}), read=False)
    answer = diff("?statistics=1")
    assert (answer["verdict"], answer["pending"], answer["statistics"]) == ("unknown", ["b"], "none")
    assert set(classes(answer).values()) == {"unknown"}
    read_tensors(parts)
    answer = diff()
    assert (answer["verdict"], answer["pending"], classes(answer)["head.w"]) == ("different", [], "changed")


def test_a_difference_that_is_certain_is_told_before_any_digest(versions, diff):
    versions(BASE, but(extra=np.ones(2, np.float32)), read=False)
    answer = diff()
    assert (answer["verdict"], answer["pending"]) == ("different", ["a", "b"])


def test_only_the_classes_asked_for_are_listed(versions, diff):
    versions(BASE, but(**{"head.w": np.zeros(16, np.float32)}, extra=np.ones(2, np.float32)))
    answer = diff("?class=changed,added")
    assert classes(answer) == {"extra": "added", "head.w": "changed"}
    assert answer["summary"]["identical"]["count"] == 3


@pytest.mark.parametrize(
    "query", ["class=", "class=new", "class=changed,", "class=Changed", "statistics=yes", "limit=0"]
)
def test_a_malformed_question_is_refused(http, versions, query):
    versions(BASE, BASE, read=False)
    assert code(http.get(f"{path()}?{query}")) == (422, "INVALID_PARAMETER")


def test_tensors_come_in_pages_and_all_else_on_the_first(http, versions, diff):
    versions({f"l.{number}.w": np.full(3, number, np.float32) for number in range(25)}, BASE)
    names = [item["name"] for item in http.items(path(), limit=4)]
    assert names == ["head.w", *(f"l.{number}.w" for number in range(25)), "layers.0.b", "layers.0.w", "layers.1.w"]
    first = diff("?limit=10&class=removed")
    second = diff(f"?limit=10&class=removed&cursor={first['next']}")
    assert [item["name"] for item in second["items"]] == [f"l.{number}.w" for number in range(10, 20)]
    assert first["modules"]
    assert (second["modules"], second["artifacts"]) == (None, None)
    assert (second["verdict"], second["summary"]) == (first["verdict"], first["summary"])


def test_a_cursor_from_before_a_digest_came_is_refused(http, versions, parts, diff):
    versions(
        {"old": BASE["head.w"], "x": BASE["layers.0.b"]}, {"new": BASE["head.w"], "x": BASE["layers.0.b"]}, read=False
    )
    cursor = diff("?limit=1")["next"]
    read_tensors(parts)
    assert code(http.get(f"{path()}?cursor={cursor}")) == (422, "INVALID_CURSOR")


def test_a_diff_asks_the_database_as_often_for_many_tensors_as_for_few(versions, diff, parts, http):
    few, many = ({f"l.{number}.w": np.full(3, number, np.float32) for number in range(count)} for count in (2, 40))
    versions(few, few, many, {name: array + 1 for name, array in many.items()})
    asked: list[str] = []
    event.listen(parts.database.engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    counts = []
    for a, b in ((1, "vision/m:2"), (3, "vision/m:4")):
        asked.clear()
        diff("?limit=1000", a=a, b=b)
        counts.append(len(asked))
    assert counts[0] == counts[1]


# Who may


def test_a_version_of_a_namespace_that_one_may_not_read_is_not_there(http, versions, make_token):
    versions(BASE)
    versions(BASE, model="secret/m")
    reader = make_token("ana", "reader", "vision")
    for method in (http.get, http.post):
        assert code(method(path(1, "secret/m:1"), token=reader)) == (404, "MODEL_NOT_FOUND")
        assert code(method(path(1, "nowhere/m:1"), token=reader)) == (404, "MODEL_NOT_FOUND")
        assert code(method(path(1, "vision/m:1", model="secret/m"), token=reader)) == (404, "MODEL_NOT_FOUND")
    assert http.get(path(1, "vision/m:1"), token=reader).status_code == 200
    assert code(http.get(path(1, "vision/m:1"), token=None)) == (401, "TOKEN_REQUIRED")


def test_any_reference_may_be_compared_with(http, versions, diff):
    versions(BASE, BASE)
    http.post("/models/vision/m/stages/production/promotions", json={"version": 2})
    for ref in (
        "vision/m",
        "vision/m@production",
        f"vision/m@{http.get('/models/vision/m/versions/2').json['digest']}",
    ):
        assert diff(b=ref)["b"] == "vision/m:2"


@pytest.mark.parametrize(
    "ref",
    ["vision/m:0", "a/b/c:1", "../m:1", "vision/m@latest", "vision/m:1:2", "x" * 3000, "é:1", "%"],
)
def test_a_hostile_reference_is_refused(http, versions, ref):
    versions(BASE, read=False)
    answer = http.get(path(1, ref))
    assert (answer.status_code, answer.json["code"][:7]) == (422, "INVALID"), answer.text
    assert http.post(path(1, ref)).status_code == 422


def test_what_is_in_the_trash_is_gone(http, versions):
    versions(BASE, BASE)
    http.delete("/models/vision/m/versions/2")
    assert code(http.get(path())) == (410, "VERSION_TRASHED")
    assert code(http.get(path(2, "vision/m:1"))) == (410, "VERSION_TRASHED")
    assert code(http.post(path())) == (410, "VERSION_TRASHED")
    assert code(http.get(path(1, "vision/m:9"))) == (404, "VERSION_NOT_FOUND")


# Measuring


def test_a_reader_has_the_differences_measured_by_a_worker(http, versions, diff, parts, make_token):
    reader = make_token("ana", "reader", "vision")
    changed = but(**{"layers.0.w": BASE["layers.0.w"] + 1, "layers.0.b": BASE["layers.0.b"].astype(np.float16)})
    versions(BASE, changed)
    assert diff("?statistics=1")["statistics"] == "none"
    answer = http.post(path(), token=reader)
    assert (answer.status_code, answer.json["statistics"]) == (202, "pending")
    assert (answer.json["statistics_done"], answer.json["statistics_total"]) == (0, 2)
    assert diff("?statistics=1")["statistics"] == "pending"
    assert work(parts) == 2
    found = diff("?statistics=1", token=reader)
    assert (found["statistics"], found["statistics_done"]) == ("done", 2)
    distance = {item["name"]: item["distance"] for item in found["items"]}
    assert distance["head.w"] is None
    whole = np.linalg.norm(BASE["layers.0.w"])
    assert distance["layers.0.w"]["relative_l2"] == pytest.approx(8 / whole)
    assert (distance["layers.0.w"]["max_abs"], distance["layers.0.w"]["equal_count"]) == (1.0, 0)
    assert distance["layers.0.b"] == {
        "element_count": 8, "equal_count": 8, "max_abs": 0.0, "relative_l2": 0.0, "cosine": pytest.approx(1.0),
    }  # fmt: skip
    module = next(each for each in found["modules"] if each["name"] == "layers.0")
    assert module["relative_l2"] == pytest.approx(8 / np.hypot(whole, np.sqrt(8)))
    assert [each["relative_l2"] for each in found["modules"] if each["name"] != "layers.0"] == [0.0, 0.0]


def test_asking_again_asks_no_second_worker(http, versions, parts):
    versions(BASE, but(**{"head.w": np.zeros(16, np.float32)}))
    for _ in range(3):
        assert http.post(path()).json["statistics"] == "pending"
    with parts.database.transaction(read_only=True) as session:
        ids = session.scalars(select(Version.id).order_by(Version.id)).all()
        keys = [f"{ids[0]}-{ids[1]}-{attempt}" for attempt in range(1, 6)]
        assert runs(session, MEASURE, keys=keys) == {keys[0]: True}
    work(parts)
    answer = http.post(path())
    assert (answer.status_code, answer.json["statistics"]) == (200, "done")


def test_what_was_measured_is_read_from_no_store_again(http, versions, parts, diff):
    changed = but(**{"head.w": np.zeros(16, np.float32)})
    versions(BASE, changed, changed | {"extra": np.ones(1, np.float32)})
    assert work(parts) == 1
    assert work(parts) == 0
    assert diff("?statistics=1", b="vision/m:3")["statistics"] == "done"  # the same two contents in another version
    assert http.post(path(1, "vision/m:3")).status_code == 200


def test_equal_pairs_of_contents_are_measured_once(versions, parts, diff):
    zero, one = np.zeros(9, np.float32), np.ones(9, np.float32)
    versions({"a": zero, "b": zero}, {"a": one, "b": one})
    assert work(parts) == 1
    assert [item["distance"]["max_abs"] for item in diff("?statistics=1")["items"]] == [1.0, 1.0]


def test_what_cannot_be_measured_leaves_nothing_to_wait_for(http, versions, diff):
    versions({"w": np.ones(4, np.int32)}, {"w": np.ones(4, np.float32)})
    answer = diff("?statistics=1")
    assert (answer["statistics"], answer["statistics_total"], answer["items"][0]["distance"]) == ("done", 0, None)
    assert http.post(path()).status_code == 200


def test_bytes_of_a_damaged_version_are_not_asked_for(http, versions, parts):
    versions(BASE, but(**{"head.w": np.zeros(16, np.float32)}))
    with parts.database.transaction() as session:
        session.scalars(select(Version).where(Version.number == 2)).one().integrity = "damaged"
    assert code(http.post(path())) == (409, "VERSION_DAMAGED")


def test_tensors_are_measured_across_segments_shards_and_windows(http, versions, parts, diff):
    random = np.random.default_rng(0)
    a = random.standard_normal((1300, 1000), dtype=np.float32)  # more than a window of 4 MiB
    b = a + random.standard_normal(a.shape, dtype=np.float32) / 100
    small = np.arange(10, dtype=np.float32)
    push(http, "vision/m", {"m.safetensors": save({"x": a, "y": small})}, size=1_000_003)
    push(http, "vision/m", {"x.safetensors": save({"x": b}), "y.safetensors": save({"y": small * 2})}, size=700_001)
    read_tensors(parts)
    assert work(parts) == 2
    found = {item["name"]: item["distance"] for item in diff("?statistics=1")["items"]}
    assert found["y"]["relative_l2"] == 1.0
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    assert found["x"]["relative_l2"] == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-12)
    assert found["x"]["cosine"] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-12)
    assert found["x"]["max_abs"] == np.abs(y - x).max()


def test_a_lost_object_ends_measuring_and_not_the_answer(http, versions, parts, diff):
    from registry.domain.errors import VersionDamagedError

    versions(BASE, but(**{"head.w": np.zeros(16, np.float32)}))
    with parts.database.transaction() as session:
        for row in session.scalars(select(StoredObject)):
            row.state = "condemned"
    with pytest.raises(VersionDamagedError):
        work(parts)
    assert diff("?statistics=1")["statistics"] == "none"


def test_what_two_workers_measured_is_kept_once(versions, parts):
    versions(BASE, but(**{"head.w": np.zeros(16, np.float32)}))
    with parts.database.transaction(read_only=True) as session:
        a, b = session.scalars(select(Version.id).order_by(Version.id)).all()
        tasks = diffs.tasks(session, a, b)
    for _ in range(2):
        with parts.database.transaction() as session:
            diffs.record(session, measuring.distances(parts.store, tasks), now=now(session))
    with parts.database.transaction(read_only=True) as session:
        assert len(session.scalars(select(TensorDiff)).all()) == 1
