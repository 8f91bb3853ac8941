"""What the pass over a version's bytes finds in its tensors, against hashlib and numpy on the whole arrays."""

import hashlib
import json
import os
import secrets
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import insert, select

from registry.db.tables import Artifact, Event, Health, Tensor, Version
from registry.domain.health import Measured, Statistics
from registry.jobs import verification
from registry.services import health, integrity, proof
from registry.services.artifacts import Stretch
from registry.services.integrity import ArrayToMeasure, FileToProve
from registry.weights import tensors
from registry.weights.safetensors import parse
from registry.weights.segments import cut as spans
from tests.support.proving import work
from tests.support.pushing import cut, digest, push
from tests.support.world import code


@pytest.fixture
def parts(app):
    return app.extensions["registry"]


def file_of(**arrays):
    """A safetensors file of numpy arrays; bfloat16 as a pair of that word and the bits."""
    header, body = {}, b""
    for name, array in arrays.items():
        dtype, bits = array if isinstance(array, tuple) else (DTYPES[array.dtype.str], array)
        data = bits.tobytes()
        header[name.replace("_", ".")] = {
            "dtype": dtype, "shape": list(bits.shape), "data_offsets": [len(body), len(body) + len(data)]
        }  # fmt: skip
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


DTYPES = {"<f4": "F32", "<f8": "F64", "<f2": "F16", "<i8": "I64", "|u1": "U8", "|b1": "BOOL", "<c8": "C64"}


def weights(seed=0, count=3000, scale=0.02):
    return np.random.default_rng(seed).normal(0, scale, count).astype(np.float32)


def newest(parts):
    with parts.database.transaction(read_only=True) as session:
        return session.scalars(select(Version.id).order_by(Version.id.desc()).limit(1)).one()


def publish(http, parts, file, *, model="yolo", size=1000, **more):
    """Push a file in pieces and let a worker at it."""
    made = push(http, model, {"m.safetensors": file}, size=size, **more).version
    assert work(parts, newest(parts)) == []
    return made


def found(http, number=1, model="yolo"):
    return http.get(f"/models/{model}/versions/{number}/health").json


def rows(http, number=1):
    return {row["name"]: row for row in http.items(f"/models/yolo/versions/{number}/tensors?artifact=m.safetensors")}


def check(row, array, data):
    assert row["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()
    good = array[np.isfinite(array)].astype(np.float64)
    assert (row["nan_count"], row["inf_count"]) == (np.isnan(array).sum(), np.isinf(array).sum())
    assert row["zero_count"] == (array == 0).sum()
    assert (row["minimum"], row["maximum"]) == (good.min(), good.max())
    assert row["norm"] == pytest.approx(np.sqrt(np.square(good).sum()), rel=1e-12)


def test_a_diverged_checkpoint_is_shown_with_the_tensor_by_name(http, parts):
    bad = weights(1)
    bad[1234] = np.nan
    publish(http, parts, file_of(head_weight=weights(), layer_3_weight=bad), kind="checkpoint")
    assert http.get("/models/yolo/versions/1").json["health"] == "done"
    told = found(http)
    assert (told["state"], told["nan_count"], told["inf_count"]) == ("done", 1, 0)
    assert told["findings"] == {"nan": ["layer.3.weight"]}


def test_tensors_over_several_segments_and_several_tensors_in_one_are_measured_whole(http, parts):
    spanning, small, odd = weights(2, 4000), weights(3, 7), np.arange(5, dtype=np.uint8)
    odd_cut = weights(4, 900).astype(np.float64)
    publish(http, parts, file_of(a=spanning, b=small, c=odd, d=odd_cut), size=5001)
    shown = rows(http)
    for name, array in {"a": spanning, "b": small, "c": odd, "d": odd_cut}.items():
        check(shown[name], array, array.tobytes())


def test_a_file_cut_as_clients_cut_it_is_measured_whole(http, parts):
    arrays = {"big": weights(5, 2_600_000), "middle": weights(6, 90_000), "s1": weights(7, 10), "s2": weights(8, 300)}
    file = file_of(**arrays)
    header = parse(file[: 8 + struct.unpack("<Q", file[:8])[0]], len(file))
    pieces = [file[span.offset : span.offset + span.size] for span in spans(len(file), header)]
    assert len(pieces) > 4
    assert {digest(piece) for piece in cut(file)} != {digest(piece) for piece in pieces}
    sent = {digest(piece): piece for piece in pieces}
    store = parts.store
    stretches, offset = [], 0
    for position, piece in enumerate(pieces):
        sha256 = digest(piece).removeprefix("sha256:")
        store.put(f"health/{sha256}", sent[digest(piece)], sha256)
        stretches.append(Stretch(position, offset, len(piece), sha256, f"health/{sha256}", position))
        offset += len(piece)
    arrays_of = tuple(ArrayToMeasure(position, tensor) for position, tensor in enumerate(header.tensors))
    whole = FileToProve(1, "m", hashlib.sha256(file).hexdigest(), tuple(stretches), arrays_of)
    result = proof.prove(store, [whole])
    assert result.faults == []
    for each in result.tensors:
        data = arrays[each.measured.name].tobytes()
        assert each.sha256 == hashlib.sha256(data).hexdigest()
        assert each.measured.statistics.norm == pytest.approx(np.linalg.norm(arrays[each.measured.name].astype("f8")))


def test_counts_are_shown_by_dtype_and_zero_tensors_by_name(http, parts):
    bits = (weights(9, 500).view(np.uint32) >> 16).astype(np.uint16)
    file = file_of(
        a=weights(), b=("BF16", bits), c=np.array(7), dead=np.zeros(10, np.float32), one=np.zeros(1, np.float32)
    )
    publish(http, parts, file)
    told = found(http)
    assert (told["tensor_count"], told["parameter_count"]) == (5, 3512)
    assert told["parameters_by_dtype"] == {"F32": 3011, "BF16": 500, "I64": 1}
    assert (told["zero_tensor_count"], told["findings"]) == (1, {"zero": ["dead"]})


def test_a_version_without_tensors_is_healthy_and_empty(http, parts):
    push(http, "yolo", {"notes.txt": b"nothing", "empty": b""})
    assert work(parts, newest(parts)) == []
    told = found(http)
    assert (told["state"], told["tensor_count"], told["parameter_count"], told["norm"]) == ("done", 0, 0, None)


def test_nothing_is_said_before_a_worker_came(http, parts):
    push(http, "yolo", {"m.safetensors": file_of(w=weights())}, size=1000)
    told = found(http)
    assert (told["state"], told["tensor_count"], told["computed_at"]) == ("pending", None, None)
    [row] = rows(http).values()
    assert {row[key] for key in ("digest", "nan_count", "zero_count", "norm")} == {None}


def test_norms_are_compared_with_the_first_parent_that_was_measured(http, parts):
    base, head = weights(10), weights(11, 400)
    publish(http, parts, file_of(body=base, head=head))
    publish(http, parts, file_of(body=base, head=head * 3), parents=["resume=https://elsewhere/x", "yolo:1"])
    told = found(http, 2)
    assert (told["parent"], told["worst_tensor"]) == ("default/yolo:1", "head")
    assert told["worst_drift"] == pytest.approx(2.0, rel=1e-5)
    norms = [np.linalg.norm(np.concatenate([base, head * by]).astype("f8")) for by in (1, 3)]
    assert told["norm_drift"] == pytest.approx(norms[1] / norms[0] - 1, rel=1e-5)


def test_a_parent_that_was_not_measured_yet_leaves_the_drift_unknown(http, parts):
    push(http, "yolo", {"m.safetensors": file_of(w=weights())})
    publish(http, parts, file_of(w=weights() * 2), parents=["yolo:1"])
    told = found(http, 2)
    assert (told["state"], told["parent"], told["norm_drift"]) == ("done", None, None)


def test_a_parent_is_not_named_to_somebody_who_may_not_read_it(http, parts, make_token):
    http.post("/namespaces", json={"name": "secret"})
    publish(http, parts, file_of(w=weights()), model="secret/m")
    publish(http, parts, file_of(w=weights() * 2), parents=["secret/m:1"])
    reader = make_token("ana", "reader")
    told = http.get("/models/yolo/versions/1/health", token=reader).json
    assert (told["parent"], told["norm_drift"]) == (None, pytest.approx(1.0))
    assert code(http.get("/models/secret%2Fm/versions/1/health", token=reader))[0] == 404


def test_damaged_bytes_have_no_health(http, parts):
    file = file_of(w=weights(secrets.randbits(64)))  # no other test's bytes are under its keys
    push(http, "yolo", {"m.safetensors": file}, size=1000)
    with parts.database.transaction(read_only=True) as session:
        [whole] = integrity.files_of(session, newest(parts))
    wrong = os.urandom(whole.stretches[3].size)
    parts.store.put(whole.stretches[3].key, wrong, hashlib.sha256(wrong).hexdigest())
    assert len(work(parts, newest(parts))) == 1
    version = http.get("/models/yolo/versions/1").json
    assert (version["integrity"], version["health"], found(http)["state"]) == ("damaged", "failed", "failed")


def test_mending_a_damaged_version_measures_it_anew(http, parts):
    file = file_of(w=weights(secrets.randbits(64)))  # no other test's bytes are under its keys
    push(http, "yolo", {"m.safetensors": file}, size=1000)
    with parts.database.transaction(read_only=True) as session:
        [whole] = integrity.files_of(session, newest(parts))
    parts.store.delete(whole.stretches[2].key)
    work(parts, newest(parts))
    again = push(http, "yolo", {"m.safetensors": file}, size=1000)
    assert (again.version["created"], again.version["health"]) == (False, "pending")
    assert work(parts, newest(parts)) == []
    assert found(http)["parameter_count"] == 3000


def test_a_worker_that_died_between_any_two_steps_leaves_one_result(http, parts):
    push(http, "yolo", {"m.safetensors": file_of(w=weights())}, size=1000)
    version = newest(parts)
    for _ in range(2):
        proved = verification.prove(parts.database, parts.store, version)
    for _ in range(2):
        verification.record(parts.database, version, proved)
    assert verification.prove(parts.database, parts.store, version)["health"]["summary"]["tensor_count"] == 0
    verification.record(parts.database, version, verification.prove(parts.database, parts.store, version))
    with parts.database.transaction(read_only=True) as session:
        assert len(session.scalars(select(Health)).all()) == 1
        events = session.scalars(select(Event).where(Event.action == "version:verify")).all()
    assert [event.detail for event in events] == [{"parameters": 3000}]
    assert found(http)["tensor_count"] == 1


def test_a_copy_is_measured_as_its_source_was(http, parts):
    publish(http, parts, file_of(w=weights()))
    assert http.post("/models/yolo/versions/1/copy", json={"to": "other"}).status_code == 201
    assert found(http, model="other")["state"] == "pending"
    assert work(parts, newest(parts)) == []
    assert found(http, model="other")["norm"] == found(http)["norm"]


def test_a_hundred_thousand_tensors_are_written_within_seconds(http, parts):
    push(http, "yolo", {"notes.txt": b"x"})
    count = 100_000
    with parts.database.transaction() as session:
        artifact = session.scalars(select(Artifact.id)).one()
        defaults = {"artifact_id": artifact, "dtype": "F32", "shape": [1], "offset": 0, "size": 4}
        session.execute(insert(Tensor), [defaults | {"position": at, "name": f"w{at}"} for at in range(count)])
    statistics = Statistics(0, 0, 0, -1.0, 1.0, 1.0)
    measured = [health.Found(artifact, at, "0" * 64, Measured(f"w{at}", "F32", 1, statistics)) for at in range(count)]
    for batch in health.batches(measured):
        with parts.database.transaction() as session:
            health.store(session, batch)
    with parts.database.transaction(read_only=True) as session:
        left = session.scalars(select(Tensor.position).where(Tensor.norm.is_(None))).all()
        assert health.compare(session, newest(parts), measured).summary.parameter_count == count
    assert left == []


def test_a_large_file_is_read_in_little_memory(store):
    piece = os.urandom(20 << 20)
    sha256 = hashlib.sha256(piece).hexdigest()
    store.put("health/large", piece, sha256)
    stretches = tuple(Stretch(at, at * len(piece), len(piece), sha256, "health/large", 1) for at in range(10))
    array = ArrayToMeasure(0, tensors.Tensor("w", "F32", (50 << 20,), 0, 200 << 20))
    file = FileToProve(1, "m", hashlib.sha256(piece * 10).hexdigest(), stretches, (array,))
    del piece
    before = _peak()
    tracemalloc.start()
    try:
        assert proof.prove(store, [file]).faults == []
        assert tracemalloc.get_traced_memory()[1] < 60 << 20  # numpy tells it what it takes
    finally:
        tracemalloc.stop()
    assert _peak() - before < 100 << 20


def _peak() -> int:
    """The most memory this process ever had."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10
