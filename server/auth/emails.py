"""One spelling for each e-mail address, so that nobody has two accounts and nobody can take another's."""

import re
import unicodedata

from email_validator import EmailNotValidError, validate_email

from server.errors import FieldError, Invalid

MAX_EMAIL_LENGTH = 254
"""RFC 5321, 4.5.3.1.3, less the angle brackets of a path."""

_ASCII_LOCAL_PART = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~.-]+", re.ASCII)
_MESSAGE = f"must be an e-mail address such as alice@example.com, at most {MAX_EMAIL_LENGTH} characters long"


def normalise_email(text: str) -> str:
    """The address in lower case, its domain in ASCII. Raises `Invalid` for anything that is not one.

    The length is checked before any pattern sees the text. Only ASCII is taken before the @, after compatibility
    normalisation: letters that look alike would make accounts that look alike.
    """
    problem = Invalid(f"email: {_MESSAGE}.", errors=[FieldError("email", _MESSAGE)])
    if len(text) > MAX_EMAIL_LENGTH:
        raise problem
    try:
        checked = validate_email(
            unicodedata.normalize("NFKC", text),
            check_deliverability=False,
            test_environment=True,  # takes the .test domains that examples and test suites use
            strict=True,  # at most 64 characters before the @
        )
    except (EmailNotValidError, ValueError):
        raise problem from None
    address = f"{checked.local_part.lower()}@{checked.ascii_domain.lower()}"
    if not _is_canonical(address):
        raise problem
    return address


def _is_canonical(address: str) -> bool:
    local, _, domain = address.partition("@")
    return bool(_ASCII_LOCAL_PART.fullmatch(local)) and "." in domain and len(address) <= MAX_EMAIL_LENGTH
