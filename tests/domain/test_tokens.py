import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.tokens import MalformedTokenError, check_token_format, new_token, token_digest, token_prefix

TOKEN = new_token(bytes(range(32)))


@given(st.binary(min_size=32, max_size=64))
def test_a_new_token_passes_its_own_check(random_bytes: bytes) -> None:
    token = new_token(random_bytes)
    assert check_token_format(token) == token
    assert re.fullmatch(r"wr_[0-9A-Za-z]{40}", token)


def test_a_token_needs_enough_randomness() -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        new_token(bytes(31))


@given(st.integers(3, 42), st.sampled_from("0AZaz9"))
def test_one_wrong_character_is_noticed(position: int, character: str) -> None:
    wrong = TOKEN[:position] + character + TOKEN[position + 1 :]
    if wrong == TOKEN:
        return
    with pytest.raises(MalformedTokenError) as caught:
        check_token_format(wrong)
    assert wrong not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "wr_", "ghp_" + "a" * 36, TOKEN[:-1], TOKEN + "a", TOKEN + "\n", "x" * 43, "wr_" + "é" * 40]
)
def test_what_is_no_token_of_ours_is_refused(text: str) -> None:
    with pytest.raises(MalformedTokenError):
        check_token_format(text)


def test_the_tail_is_the_checksum_of_all_before_it() -> None:
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    value = 0
    for character in TOKEN[-6:]:
        value = value * 62 + alphabet.index(character)
    assert value == zlib.crc32(TOKEN[:-6].encode())


def test_what_is_stored_does_not_tell_the_token() -> None:
    assert token_prefix(TOKEN) == TOKEN[3:11]
    assert re.fullmatch(r"[0-9a-f]{64}", token_digest(TOKEN))
