import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain import names, references
from registry.domain.errors import InvalidError
from registry.domain.lineage import Relation
from registry.domain.names import ModelName
from registry.domain.references import (
    Dataset,
    MetricArgument,
    Parent,
    Reference,
    parse_assignment,
    parse_dataset,
    parse_metric,
    parse_parent,
    parse_reference,
)

HEX = "0123456789abcdef" * 4
YOLO = ModelName("vision", "yolo11n")


@st.composite
def any_reference(draw: st.DrawFn) -> Reference:
    part = st.from_regex(names.PART, fullmatch=True).filter(lambda text: names.fold(text) not in names.FORBIDDEN_PARTS)
    model = ModelName(draw(part), draw(part))
    kind = draw(st.sampled_from(["name", "number", "pointer", "digest"]))
    if kind == "number":
        return Reference(model, number=draw(st.integers(1, references.MAX_NUMBER)))
    if kind == "pointer":
        return Reference(model, pointer=draw(st.sampled_from(["production", "best", "eu.west-1", "champion"])))
    if kind == "digest":
        return Reference(model, digest=draw(st.binary(min_size=32, max_size=32)).hex())
    return Reference(model)


@given(any_reference())
def test_a_reference_reads_back_as_it_was_written(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("yolo11n", Reference(ModelName("default", "yolo11n"))),
        ("vision/yolo11n", Reference(YOLO)),
        ("vision/yolo11n:7", Reference(YOLO, number=7)),
        ("vision/yolo11n:2147483647", Reference(YOLO, number=2**31 - 1)),
        ("vision/yolo11n@production", Reference(YOLO, pointer="production")),
        ("vision/yolo11n@best", Reference(YOLO, pointer="best")),
        (f"vision/yolo11n@sha256:{HEX}", Reference(YOLO, digest=HEX)),
    ],
)
def test_a_reference_means_one_thing(text: str, meant: Reference) -> None:
    assert parse_reference(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "a:", "a:0", "a:-1", "a:07", "a:+7", "a:2147483648", "a:99999999999", "a:v7", "a:7:8", "a:7@production",
        "a:٧", "a:7\n", "a@7", "a@v7", "a@latest", "a@head", "a@sha256:", f"a@sha256:{HEX.upper()}", f"a@sha256:{HEX}0",
    ],
)  # fmt: skip
def test_a_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(references.InvalidReferenceError):
        parse_reference(text)


@pytest.mark.parametrize("text", ["a@", "a@Production", "a@production:7", "a@a@b", f"a@{HEX}"])
def test_a_reference_by_pointer_needs_a_valid_pointer_name(text: str) -> None:
    with pytest.raises(names.InvalidPointerNameError):
        parse_reference(text)


def test_a_number_after_the_at_sign_is_answered_with_what_to_write() -> None:
    with pytest.raises(references.InvalidReferenceError) as caught:
        parse_reference("yolo@v7")
    assert caught.value.remedy == "Write default/yolo:7."


def test_only_numbers_and_digests_stay_put() -> None:
    assert [parse_reference(text).moves for text in ("a", "a@best", "a:1", f"a@sha256:{HEX}")] == [
        True,
        True,
        False,
        False,
    ]


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_an_error_of_ours(text: str) -> None:
    for parse in (parse_reference, parse_parent, parse_metric, parse_dataset, parse_assignment):
        try:
            parse(text)
        except InvalidError as error:
            message = str(error)
            assert message.isprintable()


def test_there_are_nine_relations() -> None:
    assert " ".join(Relation) == "finetune resume quantize prune merge distill adapter convert export"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("vision/yolo11n:7", Parent(Relation.FINETUNE, Reference(YOLO, number=7))),
        ("quantize=vision/yolo11n@best", Parent(Relation.QUANTIZE, Reference(YOLO, pointer="best"))),
        ("hf://org/model", Parent(Relation.FINETUNE, uri="hf://org/model")),
        ("merge=hf://org/model", Parent(Relation.MERGE, uri="hf://org/model")),
        ("https://x.org/?a=b", Parent(Relation.FINETUNE, uri="https://x.org/?a=b")),
        ("convert=https://x.org/?merge=b", Parent(Relation.CONVERT, uri="https://x.org/?merge=b")),
    ],
)
def test_a_relation_is_one_only_before_the_first_equals_sign(text: str, meant: Parent) -> None:
    assert parse_parent(text) == meant
    assert parse_parent(str(meant)) == meant


@pytest.mark.parametrize(
    "text",
    [
        "finetuned=vision/yolo11n", "FINETUNE=a", "merge=merge=a", "://x", "hf://", "hf://a b", "hf://a\n", "1x://a",
        "javascript://%0aalert(1)", "https://user:secret@x.org/m", "https://x.org/" + "a" * 2_048,
    ],
)  # fmt: skip
def test_a_malformed_parent_is_refused(text: str) -> None:
    with pytest.raises(references.InvalidParentError) as caught:
        parse_parent(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("mAP50-95=0.42", MetricArgument("mAP50-95", 0.42)),
        ("metrics/mAP50-95(B)=1e-3@coco", MetricArgument("metrics/mAP50-95(B)", 0.001, Dataset("coco"))),
        ("acc=-1@imagenet/v2:val", MetricArgument("acc", -1.0, Dataset("imagenet/v2"), "val")),
        (f"acc=1@coco=sha256:{HEX}:val", MetricArgument("acc", 1.0, Dataset("coco", HEX), "val")),
        ("acc=1@coco@2017:val", MetricArgument("acc", 1.0, Dataset("coco@2017"), "val")),
        ("AP@[IoU=0.50:0.95]=0.4@coco:val", MetricArgument("AP@[IoU=0.50:0.95]", 0.4, Dataset("coco"), "val")),
    ],
)
def test_a_metric_is_read_with_its_dataset_and_split(text: str, meant: MetricArgument) -> None:
    assert parse_metric(text) == meant


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_metrics_value_is_kept_exactly(value: float) -> None:
    assert parse_metric(f"loss={value!r}@coco:val").value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "acc",
        "acc=",
        "=1",
        "acc=high",
        "acc=nan",
        "acc=inf",
        "acc=1e999",
        "acc=1@",
        "acc=1@a:",
        "acc=1_0",
        "acc=٧",
        "acc= 1",
        "x" * 2_000 + "=1",
    ],
)
def test_a_malformed_metric_is_refused(text: str) -> None:
    with pytest.raises(references.InvalidMetricError):
        parse_metric(text)


def test_a_dataset_reads_back_as_it_was_written() -> None:
    for text in ("coco8.yaml", f"coco=sha256:{HEX}"):
        assert str(parse_dataset(text)) == text


@pytest.mark.parametrize("text", ["coco=", "coco=1", f"coco={HEX}", "coco=sha256:1"])
def test_a_dataset_with_a_malformed_digest_is_refused(text: str) -> None:
    with pytest.raises(references.InvalidDatasetError):
        parse_dataset(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1), ("a=-0.5", -0.5), ("a=1e-3", 0.001), ("a=true", True), ("a=null", None), ('a="1"', "1"),
        ("a=", ""), ("a=adam", "adam"), ("a=b=c", "b=c"), ("a=True", "True"), ("a=[1]", "[1]"),
        ('a={"b":1}', '{"b":1}'),
        ("a=NaN", "NaN"), ("a=-Infinity", "-Infinity"), ("a=1e999", "1e999"),
        ("a=9007199254740993", "9007199254740993"),
        ('a="\\ud800"', '"\\ud800"'), ("a=" + "[" * 7_000, "[" * 7_000), ("a=" + "1" * 6_000, "1" * 6_000),
    ],
)  # fmt: skip
def test_a_parameter_is_a_json_scalar_or_a_string(text: str, value: references.Scalar) -> None:
    found = parse_assignment(text)[1]
    assert found == value
    assert type(found) is type(value)


@given(
    st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none() | st.integers(-(2**53) + 1, 2**53 - 1)
)
def test_a_json_scalar_is_kept_exactly(value: references.Scalar) -> None:
    found = parse_assignment("k=" + json.dumps(value))[1]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["a", "", "a=\x00", "a=" + "x" * 8_001])
def test_a_malformed_assignment_is_refused(text: str) -> None:
    with pytest.raises(references.InvalidAssignmentError):
        parse_assignment(text)


def test_a_value_that_is_not_finite_cannot_be_recorded() -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(references.InvalidMetricError):
            references.check_metric_value(value, name="loss")
