"""An API key: its form, its checksum, and what is refused for lack of either."""

import hashlib
import re
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth.api_keys.key_format import digest_of, has_checksum, has_key_form, mint_key

ALPHABET = string.digits + string.ascii_letters


def in_base_62(digits: str) -> int:
    """The number that the documentation describes, read back by other means than the code has."""
    order = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = 0
    for digit in digits:
        number = number * 62 + order.index(digit)
    return number


def test_a_key_is_its_random_number_and_the_crc_of_what_comes_before() -> None:
    key = mint_key()
    prefix, number, checksum = key[:4], key[4:47], key[47:]
    assert (prefix, len(checksum)) == ("ask_", 6)
    assert in_base_62(number) < 2**256
    assert in_base_62(checksum) == zlib.crc32(key[:47].encode())


def test_keys_differ_and_all_are_accepted() -> None:
    keys = {mint_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(re.fullmatch(r"ask_[0-9A-Za-z]{49}", key) and has_key_form(key) and has_checksum(key) for key in keys)


@given(at=st.integers(4, 52), digit=st.sampled_from(ALPHABET))
def test_one_wrong_character_is_noticed(at: int, digit: str) -> None:
    key = mint_key()
    wrong = key[:at] + digit + key[at + 1 :]
    assert has_checksum(wrong) == (wrong == key)


@given(one=st.integers(4, 45))
def test_two_characters_that_changed_places_are_noticed(one: int) -> None:
    key = mint_key()
    wrong = key[:one] + key[one + 1] + key[one] + key[one + 2 :]
    assert has_checksum(wrong) == (wrong == key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ask_",
        "ask_" + "a" * 48,
        "ask_" + "a" * 50,
        "ASK_" + "a" * 49,
        "ask_" + "a" * 48 + "é",
        "ask_" + "a" * 49 + "\n",
    ],
)
def test_other_texts_have_not_the_form(text: str) -> None:
    assert not has_key_form(text)


def test_the_digest_is_sha_256() -> None:
    key = mint_key()
    assert digest_of(key) == hashlib.sha256(key.encode()).digest()
