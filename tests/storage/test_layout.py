import pytest

from registry.storage.layout import (
    SegmentKey,
    WholeKey,
    incoming_key,
    parse_segment_key,
    parse_whole_key,
    segment_key,
    whole_key,
)

SHA256 = "0f" + "3a" * 31


def test_a_segment_key_is_read_back_as_it_was_made():
    key = segment_key(7, SHA256, 3, "delta-1")
    assert key == f"ns/7/0f/{SHA256}.3.delta-1"
    assert parse_segment_key(key) == SegmentKey(7, SHA256, 3, "delta-1")


@pytest.mark.parametrize(
    ("namespace_id", "sha256", "generation", "codec"),
    [
        (0, SHA256, 1, "raw"),
        (-1, SHA256, 1, "raw"),
        (1, SHA256.upper(), 1, "raw"),
        (1, SHA256[:-1], 1, "raw"),
        (1, SHA256, 0, "raw"),
        (1, SHA256, 1, ""),
        (1, SHA256, 1, "Raw"),
        (1, SHA256, 1, "raw/.."),
        (1, SHA256, 1, "raw\n"),
    ],
)
def test_parts_that_no_key_can_have_are_refused(namespace_id, sha256, generation, codec):
    with pytest.raises(ValueError, match="no key"):
        segment_key(namespace_id, sha256, generation, codec)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "incoming/abc",
        f"ns/7/3a/{SHA256}.1.raw",
        f"ns/07/0f/{SHA256}.1.raw",
        f"ns/7/0f/{SHA256}.1.raw\n",
        f"/ns/7/0f/{SHA256}.1.raw",
        f"ns/7/0f/{SHA256}.01.raw",
    ],
)
def test_a_key_we_never_make_is_not_read(key):
    assert parse_segment_key(key) is None


def test_the_key_of_a_whole_file_is_read_back_as_it_was_made():
    key = whole_key(7, SHA256, 28_252_801)
    assert key == f"ns/7/whole/0f/{SHA256}.28252801"
    assert parse_whole_key(key) == WholeKey(7, SHA256, 28_252_801)
    assert parse_segment_key(key) is None


def test_a_segment_is_no_whole_file():
    assert parse_whole_key(segment_key(7, SHA256, 1, "raw")) is None


@pytest.mark.parametrize(("namespace_id", "sha256", "generation"), [(0, SHA256, 1), (1, "x", 1), (1, SHA256, 0)])
def test_parts_that_no_whole_file_can_have_are_refused(namespace_id, sha256, generation):
    with pytest.raises(ValueError, match="no key"):
        whole_key(namespace_id, sha256, generation)


@pytest.mark.parametrize("upload", ["", "../x", "a/b", "a b", "ü", "-a", "x" * 65])
def test_an_upload_id_is_one_plain_word(upload):
    with pytest.raises(ValueError, match="no upload"):
        incoming_key(upload)


def test_a_whole_file_on_its_way_in_has_its_own_prefix():
    assert incoming_key("01J-abc_9") == "incoming/01J-abc_9"
