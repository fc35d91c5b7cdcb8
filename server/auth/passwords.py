"""Password hashes: argon2id, two at a time, so that a burst of sign-ins waits and does not exhaust the memory.

Accounts imported from Supabase have bcrypt hashes. They are verified, and replaced at the next sign-in.
"""

import asyncio
import re
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError

from server.errors import FieldError, Invalid, Unavailable

MIN_PASSWORD_LENGTH = 8
MAX_PASSWORD_LENGTH = 128

MEMORY_KIB = 19_456
"""OWASP's minimum for argon2id (m=19 MiB, t=2, p=1): about 17 ms and 19 MiB each."""
TIME_COST = 2
PARALLELISM = 1
MAX_CONCURRENT = 2
MAX_WAITING = 20

_MAX_NORMALISED_LENGTH = 1024
"""A longer text cannot be a password here, and the time of a normalisation can grow with the square of the length."""
_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
"""The blanks of Unicode (category Zs) other than U+0020."""
_MAX_STORED_MEMORY_KIB = 65_536
_MAX_STORED_TIME_COST = 10
_MAX_STORED_PARALLELISM = 4

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_MAX_STORED_BCRYPT_COST = 14
"""Takes about a second; Supabase uses 10."""
_MAX_BCRYPT_BYTES = 72
"""bcrypt ignores further bytes. GoTrue refuses longer passwords, so a longer one never matches."""

_DUMMY_HASH = "$argon2id$v=19$m=19456,t=2,p=1$7lHgr0RSYv/vUWGhqI/p/g$IeeNUhTYBsguibXpOa/GYmS6Hp8rxqub2AtxfMZnP7s"
"""The hash of a discarded random text. It is verified if there is no hash, so that the time is the same."""

Result = TypeVar("Result")


def normalise_password(password: str) -> str:
    """The password as RFC 8265, 4.2 prepares it: all blanks are U+0020, and the rest is in NFC.

    A phone and a computer may send the same `é` as one character or as two, and other keyboards have other blanks.
    """
    if len(password) > _MAX_NORMALISED_LENGTH:
        return password
    return unicodedata.normalize("NFC", _BLANKS.sub(" ", password))


def require_acceptable(password: str, email: str) -> None:
    """Raises `Invalid` for a new password that cannot be used or is easy to guess. `email` is normalised.

    It must have 8 to 128 characters, counted in NFC, without NUL and without half a surrogate pair.
    """
    password = normalise_password(password)
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        message = f"must have {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters"
    elif "\0" in password or any("\ud800" <= character <= "\udfff" for character in password):
        message = "must not contain the NUL character or half of a surrogate pair"
    elif (reason := why_guessable(password, email)) is None:
        return
    else:
        message = reason
    raise Invalid(f"password: {message}.", errors=[FieldError("password", message)])


def why_guessable(password: str, email: str) -> str | None:
    """Why a password is easy to guess, as the end of a sentence: it is a common one, or contains the address.

    The part of the address before the @ is allowed if the rest of the password is long enough without it.
    """
    folded, name = password.casefold(), email.partition("@")[0]
    if folded in _common_passwords():
        return "is one of the most common passwords: choose another"
    if email in folded or (len(name) > 1 and len(folded.replace(name, "")) < MIN_PASSWORD_LENGTH and name in folded):
        return "must not be made of the e-mail address: choose another"
    return None


@cache
def _common_passwords() -> frozenset[str]:
    """About 10,000 passwords, in lower case; 1 MB. Read at the first new password."""
    lines = (Path(__file__).parent / "common_passwords.txt").read_text("utf-8").splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


class Passwords:
    """Hashes and verifies in its own threads, with a bounded queue."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(
            time_cost=TIME_COST, memory_cost=MEMORY_KIB, parallelism=PARALLELISM, type=Type.ID
        )
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="argon2")
        self._pending = 0

    async def hash(self, password: str) -> str:
        """The hash of the password in NFC. Raises `Unavailable` if the queue is full."""
        return await self._in_thread(lambda: self._hasher.hash(_bytes(normalise_password(password))))

    async def matches(self, stored: str | None, password: str) -> bool:
        """Whether `password` matches a stored hash. Raises `Unavailable` if the queue is full.

        The password is tried as it is normalised, then as it was sent: hashes from before the normalisation, and of
        other servers, are of that form. None and unknown kinds of hashes give False, after the time that argon2 takes.
        """
        forms = dict.fromkeys((normalise_password(password), password))
        return await self._in_thread(lambda: any(self._verify(stored, _bytes(form)) for form in forms))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, stored: str | None, password: bytes) -> bool:
        if stored is not None and (found := _BCRYPT.fullmatch(stored)) and int(found[1]) <= _MAX_STORED_BCRYPT_COST:
            return _is_bcrypt_of(stored, password)
        hashed = stored if stored is not None and _is_affordable(stored) else None
        try:
            return self._hasher.verify(hashed or _DUMMY_HASH, password) and hashed is not None
        except (Argon2Error, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        if self._pending >= MAX_CONCURRENT + MAX_WAITING:
            raise Unavailable("Too many sign-ins at once; try again.", retry_after_s=2)
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._pending -= 1


def _is_bcrypt_of(stored: str, password: bytes) -> bool:
    import bcrypt  # noqa: PLC0415 - needed only for imported accounts

    try:
        is_match = bcrypt.checkpw(password[:_MAX_BCRYPT_BYTES], stored.encode())
    except ValueError:  # a cost below 4, or a NUL in the password
        return False
    return is_match and len(password) <= _MAX_BCRYPT_BYTES


def is_outdated(stored: str) -> bool:
    """Whether a matching hash should be replaced by an argon2id hash."""
    return not stored.startswith("$argon2id$")


def _bytes(password: str) -> bytes:
    """Never fails: a text that cannot be a password simply does not match."""
    return password.encode("utf-8", "surrogatepass")


def _is_affordable(stored: str) -> bool:
    """Whether an imported argon2 hash asks for acceptable memory, time and threads (Ory Kratos had this fault)."""
    if not stored.isascii():
        return False
    try:
        parameters = extract_parameters(stored)
    except InvalidHashError:
        return False
    return (
        parameters.memory_cost <= _MAX_STORED_MEMORY_KIB
        and parameters.time_cost <= _MAX_STORED_TIME_COST
        and parameters.parallelism <= _MAX_STORED_PARALLELISM
    )
