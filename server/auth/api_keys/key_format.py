"""The form of an API key: `ask_`, 43 characters for 32 random bytes, and 6 characters for a checksum.

Bytes and checksum are numbers (big-endian) in base 62 with the digits `0-9A-Za-z`, padded with `0`. The checksum is the
CRC-32 of zlib over the 47 characters before it. So scanners of source code recognise a key, and a text that is no key
is refused without a query.
"""

import hashlib
import re
import secrets
import string
import zlib

PREFIX = "ask_"
SHOWN_CHARS = len(PREFIX) + 6
"""The beginning of a key that stays visible, to tell the keys of a user apart."""
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_BYTES = 32
_RANDOM_CHARS = 43
_CHECKSUM_CHARS = 6
_KEY = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM_CHARS + _CHECKSUM_CHARS}}}", re.ASCII)


def mint_key() -> str:
    """A new random key."""
    body = PREFIX + _base_62(int.from_bytes(secrets.token_bytes(_RANDOM_BYTES)), _RANDOM_CHARS)
    return body + _checksum(body)


def has_key_form(text: str) -> bool:
    """Whether the text has the length and the characters of a key. It is cheap; `has_checksum` is the second check."""
    return _KEY.fullmatch(text) is not None


def has_checksum(key: str) -> bool:
    """Whether a text of the form of a key ends with its checksum."""
    return _checksum(key[:-_CHECKSUM_CHARS]) == key[-_CHECKSUM_CHARS:]


def digest_of(key: str) -> bytes:
    """The SHA-256 of a key, under which it is stored. A key has too many random bits for a slow hash to be needed."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(body: str) -> str:
    return _base_62(zlib.crc32(body.encode()), _CHECKSUM_CHARS)


def _base_62(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
