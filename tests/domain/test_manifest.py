import json
import math
import struct
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain import manifest, paths
from registry.domain.manifest import ManifestEntry, canonical_json, manifest_bytes, manifest_digest

HEX = "0123456789abcdef" * 4
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTEGERS = st.integers(-manifest.MAX_SAFE_INTEGER, manifest.MAX_SAFE_INTEGER)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("bits", "written"),
    [
        ("0000000000000000", "0"), ("8000000000000000", "0"), ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"), ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"), ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"), ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"), ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"), ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"), ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"), ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"), ("41b3de4355555554", "333333333.33333325"),
        ("41b3de4355555555", "333333333.3333333"), ("41b3de4355555556", "333333333.3333334"),
        ("41b3de4355555557", "333333333.33333343"), ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_the_rfcs_samples_are(bits: str, written: str) -> None:
    value = struct.unpack(">d", bytes.fromhex(bits))[0]
    assert canonical_json(value) == written.encode()


@pytest.mark.parametrize(
    ("value", "written"),
    [(1.0, "1"), (-1.5, "-1.5"), (100.0, "100"), (1e20, "100000000000000000000"), (0.1, "0.1"), (1e-7, "1e-7"),
     (123456.789, "123456.789"), (1.5e-10, "1.5e-10"), (1.25e300, "1.25e+300"), (0.001, "0.001")],
)  # fmt: skip
def test_a_number_has_one_spelling(value: float, written: str) -> None:
    assert canonical_json(value) == written.encode()


@pytest.mark.parametrize("value", [2.0**53, -1e20, 295147905179352830000.0, 1e300, 1.7976931348623157e308])
def test_a_large_float_may_come_back_as_an_integer(value: float) -> None:
    assert canonical_json(int(Decimal(repr(value)))) == canonical_json(value)


@given(FLOATS)
def test_a_float_reads_back_exactly(value: float) -> None:
    assert float(canonical_json(value)) == value


def as_ecmascript(digits: str) -> float:
    return int(digits) if abs(int(digits)) <= manifest.MAX_SAFE_INTEGER else float(digits)


@given(JSON)
def test_canonical_json_is_json_of_the_same_value(value: Any) -> None:
    assert json.loads(canonical_json(value), parse_int=as_ecmascript) == value


@given(JSON)
def test_writing_again_what_was_read_changes_nothing(value: Any) -> None:
    written = canonical_json(value)
    assert canonical_json(json.loads(written)) == written


@given(st.dictionaries(TEXT, INTEGERS))
def test_the_order_of_members_does_not_matter(value: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


def test_members_are_sorted_by_utf_16_code_units() -> None:
    rfc = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(json.loads(canonical_json(rfc))) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_strings_are_escaped_only_where_they_must_be() -> None:
    text = '\u20ac$\x0f\nA\'B"\\\\"/\x7f\x08\x0c\t\r\u2028'
    assert canonical_json(text).decode() == '"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/\x7f\\b\\f\\t\\r\u2028"'


def test_there_is_no_space_between_tokens() -> None:
    assert canonical_json({"b": [1, None, True], "a": {}}) == b'{"a":{},"b":[1,null,true]}'


def test_enum_members_are_written_as_their_values() -> None:
    class Word(StrEnum):
        A = "a"

    class Count(IntEnum):
        ONE = 1

    assert canonical_json({Word.A: Count.ONE}) == b'{"a":1}'


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        2**53 + 1,
        -(2**64),
        10**400,
        2**1024 - 1,
        "\ud800",
        {"\ud800": 1},
        {1: 2},
        {1},
        b"a",
    ],
)
def test_a_value_without_canonical_json_is_refused(value: Any) -> None:
    with pytest.raises(manifest.NotCanonicalError):
        canonical_json(value)


def test_nesting_is_limited() -> None:
    deep: Any = 1
    for _ in range(manifest.MAX_JSON_DEPTH):
        deep = [deep]
    canonical_json(deep)
    with pytest.raises(manifest.NotCanonicalError):
        canonical_json([deep])


def test_a_manifest_has_one_exact_shape() -> None:
    entries = [ManifestEntry("b.bin", 0, HEX), ManifestEntry("a.json", 7, HEX, "application/json")]
    assert manifest_bytes(entries).decode() == (
        f'{{"artifacts":[{{"media_type":"application/json","path":"a.json","sha256":"{HEX}","size":7}},'
        f'{{"media_type":"application/octet-stream","path":"b.bin","sha256":"{HEX}","size":0}}],"schema":1}}'
    )
    # Recorded: a change of this digest would change the identity of everything ever published.
    assert manifest_digest(entries) == "de7fabfab57ae75b31cde93681d66194219a079ec52a6f6a0e0b57e8aa827ccd"


@given(st.permutations([ManifestEntry(path, 1, HEX) for path in ("a", "a-b", "b/c", "\U0001f600", "\uff21")]))
def test_the_order_of_files_does_not_matter(entries: list[ManifestEntry]) -> None:
    written = manifest_bytes(entries)
    assert [item["path"] for item in json.loads(written)["artifacts"]] == ["a", "a-b", "b/c", "\uff21", "\U0001f600"]


@pytest.mark.parametrize(
    "entry",
    [
        ManifestEntry("a", -1, HEX), ManifestEntry("a", 2**53, HEX), ManifestEntry("a", 1, HEX.upper()),
        ManifestEntry("a", 1, f"sha256:{HEX}"), ManifestEntry("a", 1, HEX, "text"),
        ManifestEntry("a", 1, HEX, "text/html; q=1"),
        ManifestEntry("a", 1, HEX, "Text/Plain"), ManifestEntry("a", 1, HEX, "text/plain\n"),
    ],
)  # fmt: skip
def test_a_malformed_entry_is_refused(entry: ManifestEntry) -> None:
    with pytest.raises(manifest.InvalidManifestError):
        manifest_bytes([entry])


def test_an_empty_manifest_is_refused() -> None:
    with pytest.raises(manifest.InvalidManifestError):
        manifest_bytes([])


def test_a_manifests_paths_are_checked() -> None:
    with pytest.raises(paths.PathCollisionError):
        manifest_bytes([ManifestEntry("a", 1, HEX), ManifestEntry("A", 1, HEX)])
