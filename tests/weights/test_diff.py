"""What changed, told from names, dtypes, shapes and digests."""

import hashlib
import time
from typing import Any

import pytest

from registry.weights.diff import (
    Change,
    Count,
    Distance,
    File,
    Kind,
    Side,
    Verdict,
    compare_files,
    counts,
    module_of,
    modules,
    pair_of,
    verdict,
)
from registry.weights.diff import compare as compare_all


def tensor(name="w", content="1", *, shape=(2, 2), dtype="F32", path="m.safetensors", norm=None, **more):
    digest = hashlib.sha256(content.encode()).hexdigest() if content else None
    given: dict[str, Any] = {"file_sha256": f"{path}{content}", "offset": 0} | more
    return Side(path=path, name=name, dtype=dtype, shape=shape, size=16, digest=digest, norm=norm, **given)


def kinds(a, b):
    return [(change.label, change.kind) for change in compare_all(a, b)]


def compare(a, b):
    [change] = compare_all(a, b)
    return change


def file(sha256, *, closed=False):
    return File(100, sha256, closed)


def judged(a, b, *, files_a=None, files_b=None):
    files = compare_files(files_a or {"m": file("1")}, files_b or {"m": file("2")})
    return verdict(compare_all(a, b), files)


def test_the_same_bytes_under_the_same_name_are_identical():
    assert kinds([tensor()], [tensor()]) == [("w", Kind.IDENTICAL)]


def test_other_bytes_are_a_change():
    assert kinds([tensor()], [tensor(content="2")]) == [("w", Kind.CHANGED)]


def test_what_only_one_version_has_was_added_or_removed():
    assert kinds([tensor("gone")], [tensor("new", "2")]) == [("gone", Kind.REMOVED), ("new", Kind.ADDED)]


def test_another_shape_is_reshaped_whatever_the_bytes():
    assert kinds([tensor()], [tensor(shape=(4, 1))]) == [("w", Kind.RESHAPED)]
    assert kinds([tensor()], [tensor(content="2", shape=(4, 1), dtype="BF16")]) == [("w", Kind.RESHAPED)]


def test_another_dtype_of_the_same_shape_is_retyped():
    assert kinds([tensor()], [tensor(content="2", dtype="BF16")]) == [("w", Kind.RETYPED)]
    assert kinds([tensor()], [tensor(dtype="I32")]) == [("w", Kind.RETYPED)]


def test_the_same_bytes_under_another_name_are_renamed():
    change = compare([tensor("old")], [tensor("new")])
    assert (change.kind, change.label) == (Kind.RENAMED, "new")
    assert change.a is not None
    assert change.a.name == "old"


def test_a_renamed_tensor_keeps_dtype_and_shape():
    assert kinds([tensor("old")], [tensor("new", shape=(4, 1))]) == [("new", Kind.ADDED), ("old", Kind.REMOVED)]
    assert kinds([tensor("old")], [tensor("new", dtype="I32")]) == [("new", Kind.ADDED), ("old", Kind.REMOVED)]


def test_equal_tensors_are_renamed_one_to_one_in_the_order_of_their_names():
    old = [tensor(f"old.{number}") for number in (10, 2, 1)]
    new = [tensor(f"new.{number}") for number in (2, 11)]
    found = compare_all(old, new)
    renamed = {change.label: change.a.name for change in found if change.kind is Kind.RENAMED and change.a}
    assert renamed == {"new.2": "old.1", "new.11": "old.2"}
    assert [change.label for change in found if change.kind is Kind.REMOVED] == ["old.10"]
    assert compare_all(old[::-1], new[::-1]) == found


def test_without_a_digest_it_is_not_known_whether_a_tensor_changed():
    assert kinds([tensor(content="")], [tensor()]) == [("w", Kind.UNKNOWN)]
    assert kinds([tensor()], [tensor(content="")]) == [("w", Kind.UNKNOWN)]


def test_without_a_digest_nothing_is_called_renamed():
    assert kinds([tensor("old", "")], [tensor("new", "")]) == [("new", Kind.ADDED), ("old", Kind.REMOVED)]


def test_the_same_place_of_the_same_file_is_identical_before_any_digest_is_known():
    here = {"content": "", "file_sha256": "f", "offset": 8}
    assert kinds([tensor(**here)], [tensor(**here)]) == [("w", Kind.IDENTICAL)]
    assert kinds([tensor(**here)], [tensor(**here | {"offset": 16})]) == [("w", Kind.UNKNOWN)]


def test_the_same_tensor_in_two_files_is_one():
    both = [tensor(path="m.pt"), tensor(path="m.safetensors")]
    assert kinds(both, [tensor()]) == [("w", Kind.IDENTICAL)]
    assert kinds(both, both) == [("w", Kind.IDENTICAL)]


def test_a_name_with_two_contents_is_qualified_by_its_file_on_both_sides():
    both = [tensor(path="ema.safetensors", content="2"), tensor(path="m.safetensors")]
    assert kinds([tensor()], both) == [("ema.safetensors::w", Kind.ADDED), ("m.safetensors::w", Kind.IDENTICAL)]
    assert kinds(both, [tensor()]) == [("ema.safetensors::w", Kind.REMOVED), ("m.safetensors::w", Kind.IDENTICAL)]


def test_a_name_made_to_look_qualified_hides_nothing():
    both = [tensor(path="a", content="2"), tensor(path="b"), tensor("a::w", "3", path="b")]
    after = [tensor(path="a", content="4"), tensor(path="b"), tensor("a::w", "3", path="b")]
    assert sorted(kinds(both, after)) == [
        ("a::w", Kind.CHANGED), ("a::w", Kind.IDENTICAL), ("b::w", Kind.IDENTICAL),
    ]  # fmt: skip


def test_tensors_come_in_the_order_in_which_people_count():
    names = [f"layers.{number}.w" for number in (10, 2, 0)] + ["head", "layers.2.b"]
    found = [change.label for change in compare_all([tensor(name) for name in names], [])]
    assert found == ["head", "layers.0.w", "layers.2.b", "layers.2.w", "layers.10.w"]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "model.layers.0"),
        ("encoder.layer.3.output.dense.bias", "encoder.layer.3"),
        ("model.22.cv2.0.conv.weight", "model.22"),
        ("blk.7.ffn_down.weight", "blk.7"),
        ("0.weight", "0"),
        ("embeddings.word_embeddings.weight", "embeddings"),
        ("pooler.dense.weight", "pooler"),
        ("model.decoder.norm.weight", "model.decoder"),
        ("lm_head.weight", "lm_head"),
        ("w", ""),
        ("layer3.w", "layer3"),
        ("a..b", "a"),
        ("layers.²٣.w", "layers"),
    ],
)
def test_a_module_ends_at_the_first_number_else_two_components_before_the_end(name, module):
    assert module_of(name) == module


def test_modules_count_tensors_and_the_bytes_that_are_not_the_same():
    a = [tensor("l.2.w"), tensor("l.2.b"), tensor("l.10.w"), tensor("gone.x.w")]
    b = [tensor("l.2.w"), tensor("l.2.b", "2"), tensor("l.10.w", "3")]
    found = modules(compare_all(a, b))
    assert [(each.name, each.changed_size) for each in found] == [("gone", 16), ("l.2", 16), ("l.10", 16)]
    assert found[1].counts == {Kind.IDENTICAL: Count(1, 16), Kind.CHANGED: Count(1, 16)}
    assert found[1].relative_l2 is None


def test_the_files_of_a_qualified_name_are_modules_of_their_own():
    both = [tensor("l.0.w", path="ema", content="2"), tensor("l.0.w", path="m")]
    assert [each.name for each in modules(compare_all(both, both))] == ["ema::l.0", "m::l.0"]


def measured(changes, relative):
    """Every pair among the changes at this distance."""
    return {pair: distance(relative) for pair in map(pair_of, changes) if pair is not None}


def distance(relative):
    return Distance(4, 0, 1.0, relative, 1.0)


def test_a_module_s_change_is_that_of_all_its_tensors_as_one_vector():
    a = [tensor("l.0.w", norm=3.0), tensor("l.0.b", norm=4.0), tensor("l.0.n", norm=12.0)]
    b = [tensor("l.0.w", "2"), tensor("l.0.b", "3"), tensor("l.0.n")]
    changes = compare_all(a, b)
    known = measured(changes, 0.5)
    [module] = modules(changes, known)
    assert module.relative_l2 == pytest.approx(2.5 / 13)


def test_a_module_s_change_is_not_known_while_a_tensor_s_is_not():
    a = [tensor("l.0.w", norm=3.0), tensor("l.0.b", norm=4.0)]
    changes = compare_all(a, [tensor("l.0.w", "2"), tensor("l.0.b", "3")])
    assert [each.relative_l2 for each in modules(changes, measured(changes[:1], 0.5))] == [None]
    unread = compare_all([tensor("l.0.w")], [tensor("l.0.w", "2")])
    assert [each.relative_l2 for each in modules(unread, measured(unread, 0.5))] == [None]


def test_a_module_without_a_change_has_not_moved():
    assert [each.relative_l2 for each in modules(compare_all([tensor()], [tensor()]), {})] == [0.0]


def test_what_grew_from_zero_moved_by_its_norm():
    a, b = [tensor("l.0.w", norm=0.0), tensor("l.0.b", norm=4.0)], [tensor("l.0.w", "2", norm=2.0), tensor("l.0.b")]
    changes = compare_all(a, b)
    [module] = modules(changes, measured(changes, None))
    assert module.relative_l2 == pytest.approx(0.5)


def test_integers_do_not_count_towards_a_module_s_change():
    a = [tensor("l.0.w", norm=2.0), tensor("l.0.steps", dtype="I64", norm=1e9)]
    b = [tensor("l.0.w", "2"), tensor("l.0.steps", "3", dtype="I64")]
    changes = compare_all(a, b)
    known = measured(changes, 0.5)
    assert [each.relative_l2 for each in modules(changes, known)] == [0.5]


def test_the_same_files_are_identical_even_without_digests():
    same = {"m": file("1")}
    assert judged([tensor(content="")], [tensor(content="")], files_a=same, files_b=same) is Verdict.IDENTICAL
    assert judged([], [], files_a=same, files_b=same) is Verdict.IDENTICAL


def test_other_files_with_the_same_tensors_are_the_same_weights():
    assert judged([tensor()], [tensor()]) is Verdict.SAME_WEIGHTS


def test_files_without_tensors_are_never_the_same_weights():
    assert judged([], []) is Verdict.DIFFERENT


def test_one_tensor_that_changed_or_changed_its_name_makes_a_difference():
    assert judged([tensor()], [tensor(content="2")]) is Verdict.DIFFERENT
    assert judged([tensor("a")], [tensor("b")]) is Verdict.DIFFERENT


def test_while_digests_are_missing_the_verdict_is_not_known():
    assert judged([tensor(content="")], [tensor()]) is Verdict.UNKNOWN
    assert judged([tensor(content=""), tensor("x")], [tensor()]) is Verdict.DIFFERENT


def test_a_file_of_weights_that_cannot_be_looked_into_must_be_the_same_too():
    open_, shut, other = file("1"), file("2", closed=True), file("3", closed=True)
    assert judged([tensor()], [tensor()], files_a={"m": open_, "o.pt": shut}, files_b={"m": open_, "o.pt": other}) is (
        Verdict.DIFFERENT
    )
    assert judged([tensor()], [tensor()], files_a={"m": open_, "o.pt": shut}, files_b={"n": open_, "p.pt": shut}) is (
        Verdict.SAME_WEIGHTS
    )


def test_files_are_compared_by_path_and_digest():
    a = {"same": file("1"), "changed": file("2"), "gone": file("3")}
    b = {"same": file("1"), "changed": file("4"), "new": file("3")}
    assert [(each.path, each.kind) for each in compare_files(a, b)] == [
        ("changed", Kind.CHANGED), ("gone", Kind.REMOVED), ("new", Kind.ADDED), ("same", Kind.IDENTICAL),
    ]  # fmt: skip


def test_only_what_changed_its_bytes_can_be_measured():
    assert pair_of(compare([tensor()], [tensor(content="2", dtype="BF16")])) is not None
    assert pair_of(compare([tensor()], [tensor()])) is None
    assert pair_of(compare([tensor()], [tensor(shape=(4, 1), content="2")])) is None


def test_a_hundred_thousand_tensors_are_compared_in_seconds():
    def many(offset):
        return [tensor(f"m.{index // 9}.w{index % 9}.weight", f"{index * offset}") for index in range(100_000)]

    a, b = many(1), many(3)
    began = time.perf_counter()
    found = compare_all(a, b)
    modules(found)
    assert time.perf_counter() - began < 10  # about one on an idle machine
    assert counts(found)[Kind.CHANGED].number == 99_999
    assert isinstance(found[0], Change)
