"""Normalises e-mail addresses, so that two spellings of one address cannot have two accounts."""

import re
import unicodedata

from server.errors import FieldError, Invalid

MAX_EMAIL_LENGTH = 254
"""RFC 5321, 4.5.3.1.3, without the angle brackets of a path."""
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u2066\u2067\u2068\u2069\u202a\u202b\u202c\ufe0f\ufeff\ufffc"
"""Zero-width spaces, direction marks and places of objects, which copied and dictated addresses carry."""

_ASCII_LOCAL_PART = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~.-]+", re.ASCII)
_MESSAGE = f"must be an e-mail address such as alice@example.com, at most {MAX_EMAIL_LENGTH} characters long"


def normalise_email(text: str) -> str:
    """The address in lower case, without blanks around it, with its domain in ASCII. Raises `Invalid`.

    Keyboards of phones add a blank after a completed word, and copied text has blanks and invisible marks at its ends.
    The length is checked before any regular expression runs. Before the @ only ASCII is accepted, after compatibility
    normalisation: otherwise two accounts could have addresses that look alike.
    """
    from email_validator import validate_email  # noqa: PLC0415 - it compiles 40 ms of patterns, at a start for nothing

    problem = Invalid(f"email: {_MESSAGE}.", errors=[FieldError("email", _MESSAGE)])
    text = _trim(text)
    if len(text) > MAX_EMAIL_LENGTH:
        raise problem
    try:
        checked = validate_email(
            unicodedata.normalize("NFKC", text),
            check_deliverability=False,
            test_environment=True,  # accepts .test domains, which examples and test suites use
            strict=True,  # at most 64 characters before the @
        )
    except ValueError:
        raise problem from None
    local, domain = checked.local_part.lower(), checked.ascii_domain.lower()
    if not _ASCII_LOCAL_PART.fullmatch(local) or "." not in domain:
        raise problem
    return f"{local}@{domain}"


def _trim(text: str) -> str:
    """Without white space and invisible marks at the ends, in any order."""
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while start < end and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_blank(character: str) -> bool:
    return character.isspace() or character in _INVISIBLE
