"""One-time codes with which an invited person signs up. Pure."""

import hashlib
import secrets

INVITE_DAYS = 7
_ALPHABET = "ABCDEFGHJKMNPQRSTVWXYZ23456789"
"""Without letters and digits that look alike."""
_GROUPS, _GROUP = 4, 4
MAX_CODE_LENGTH = 64
"""With whatever a person puts between the characters."""


def new_code() -> str:
    """A code of 16 characters with about 78 bits, such as `K7QM-2XGD-9RTB-HW4C`."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))


def hash_code(code: str) -> str:
    """The form in which a code is stored. Lower case, blanks and hyphens make no difference."""
    characters = "".join(character for character in code.upper() if character.isalnum())
    return hashlib.sha256(characters.encode("utf-8", "surrogatepass")).hexdigest()
