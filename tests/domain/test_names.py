import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain import names
from registry.domain.names import ModelName, fold, parse_model

PARTS = st.from_regex(names.PART, fullmatch=True).filter(lambda part: fold(part) not in names.FORBIDDEN_PARTS)


@given(PARTS, PARTS)
def test_a_model_name_reads_back_as_it_was_written(namespace: str, name: str) -> None:
    model = ModelName(namespace, name)
    assert parse_model(str(model)) == model


@given(PARTS)
def test_a_bare_name_is_in_the_default_namespace(name: str) -> None:
    assert parse_model(name) == ModelName("default", name)


@given(PARTS)
def test_folding_twice_changes_nothing_more(part: str) -> None:
    assert fold(fold(part)) == fold(part)


@given(PARTS, st.sampled_from("._-"))
def test_case_and_separators_do_not_make_another_name(part: str, separator: str) -> None:
    twin = part.swapcase().replace(".", separator).replace("_", separator).replace("-", separator * 2)
    assert fold(twin) == fold(part)


def test_look_alikes_share_one_key() -> None:
    spellings = ["Vision/YOLO_11n", "vision/yolo.11n", "vision/yolo--11n", "VISION/yolo-11N"]
    assert {parse_model(text).folded for text in spellings} == {"vision/yolo-11n"}


@pytest.mark.parametrize(
    "text",
    ["", "/", "a/", "/a", "a/b/c", ".a", "-", "_a", "a b", "a\n", "é", "a:1", "a@b", "a" * 97, "..", "a/..", "a\x00"],
)
def test_a_name_that_breaks_the_rule_is_refused(text: str) -> None:
    with pytest.raises(names.InvalidNameError):
        parse_model(text)


def test_a_part_may_have_96_characters() -> None:
    assert parse_model("a" * 96).name == "a" * 96


@pytest.mark.parametrize("part", sorted(names.FORBIDDEN_PARTS - {"-"}))
def test_a_word_of_the_url_is_no_part_in_any_case(part: str) -> None:
    for text in (part, part.upper(), f"{part}/model", f"vision/{part.title()}"):
        with pytest.raises(names.ReservedNameError):
            parse_model(text)


def test_the_system_chain_cannot_be_a_namespace() -> None:
    with pytest.raises(names.InvalidNameError):
        names.check_namespace(names.SYSTEM_CHAIN)


@pytest.mark.parametrize("name", ["production", "staging", "a", "eu-west.prod_2", "v7a", "abcdef", "vision", "a" * 64])
def test_a_pointer_name_is_lower_case_and_starts_with_a_letter(name: str) -> None:
    if len(name) < 64:
        assert names.check_pointer(name) == name
    else:
        with pytest.raises(names.InvalidPointerNameError):
            names.check_pointer(name)  # 64 times "a" is a digest


@pytest.mark.parametrize("name", ["", "Production", "7", "_a", "a b", "a\n", "z" * 65, "é", "v7", "v007", "deadbeef"])
def test_a_pointer_name_that_breaks_the_rule_is_refused(name: str) -> None:
    with pytest.raises(names.InvalidPointerNameError):
        names.check_pointer(name)


@pytest.mark.parametrize("name", sorted(names.RESERVED_POINTERS))
def test_a_reserved_word_is_no_pointer_name(name: str) -> None:
    with pytest.raises(names.ReservedNameError):
        names.check_pointer(name)


@pytest.mark.parametrize("name", ["ada", "ada.lovelace@example.org", "ci+nightly", "0"])
def test_a_user_name_may_be_an_address(name: str) -> None:
    assert names.check_user_name(name) == name


@pytest.mark.parametrize("name", ["", "Ada", "a b", "@a", "a\n", "a" * 97, "a/b"])
def test_a_user_name_that_breaks_the_rule_is_refused(name: str) -> None:
    with pytest.raises(names.InvalidUserNameError):
        names.check_user_name(name)


def test_the_registrys_own_actors_are_no_user_names() -> None:
    with pytest.raises(names.ReservedNameError):
        names.check_user_name("system")


@pytest.mark.parametrize("name", ["metrics/mAP50-95(B)", "train/loss", "AP@[IoU=0.50:0.95]", "ж", "x" * 250])
def test_a_metric_name_is_what_trainers_write(name: str) -> None:
    assert names.check_metric_name(name) == name


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a\x00", "\u202eevil", "\ud800", "x" * 251])
def test_a_metric_name_that_cannot_be_printed_is_refused(name: str) -> None:
    with pytest.raises(names.InvalidLabelError):
        names.check_metric_name(name)


@pytest.mark.parametrize("name", ["coco=1", "coco:val", ""])
def test_a_dataset_name_holds_no_separator(name: str) -> None:
    with pytest.raises(names.InvalidLabelError):
        names.check_dataset_name(name)
    with pytest.raises(names.InvalidLabelError):
        names.check_split(name)


def test_a_tag_value_may_span_lines() -> None:
    assert names.check_tag("mlflow.note", "one\n\ttwo\r\n") == ("mlflow.note", "one\n\ttwo\r\n")


@pytest.mark.parametrize(
    ("key", "value"), [("", "a"), ("a=b", "c"), ("a\n", "b"), ("a", "\x00"), ("a", "\ud800"), ("a", "x" * 8_001)]
)
def test_a_tag_that_breaks_a_rule_is_refused(key: str, value: str) -> None:
    with pytest.raises(names.InvalidTagError):
        names.check_tag(key, value)


def test_a_message_stays_on_one_short_line() -> None:
    with pytest.raises(names.InvalidNameError) as caught:
        parse_model("evil\n\x1b[31m" + "x" * 10_000)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 160
