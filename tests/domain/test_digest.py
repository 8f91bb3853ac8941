import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.digest import InvalidDigestError, check_sha256_hex, format_digest, parse_digest


@given(st.binary(min_size=32, max_size=32))
def test_a_digest_reads_back_as_it_was_written(raw: bytes) -> None:
    assert parse_digest(format_digest(raw.hex())) == check_sha256_hex(raw.hex()) == raw.hex()


@pytest.mark.parametrize(
    "text", ["", "sha256:", "a" * 64, "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha512:" + "a" * 64]
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigestError):
        parse_digest(text)


@pytest.mark.parametrize("text", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", "sha256:" + "a" * 64])
def test_what_is_not_64_lower_case_hex_digits_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigestError):
        check_sha256_hex(text)
