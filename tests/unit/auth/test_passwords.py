"""Password hashes: argon2id of the chosen cost, a bounded line, and nothing that a hash or a password can break."""

import asyncio
import statistics
import threading
import time
import unicodedata
from collections.abc import Iterator

import bcrypt
import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2 import Type as ArgonType

from server.auth import passwords as module
from server.auth.passwords import (
    MAX_CONCURRENT,
    MAX_WAITING,
    MIN_PASSWORD_LENGTH,
    Passwords,
    is_outdated,
    require_acceptable,
)
from server.errors import Invalid, Unavailable

EMAIL = "alice@example.com"
BCRYPT = "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords()
    yield passwords
    passwords.close()


class Gate:
    """Holds every hash in its thread until opened, and knows how many were there at once."""

    def __init__(self, passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self._inside = 0
        self._lock = threading.Lock()
        self._open = threading.Event()
        monkeypatch.setattr(passwords, "_hasher", self)

    def hash(self, _password: bytes) -> str:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        assert self._open.wait(timeout=10)
        with self._lock:
            self._inside -= 1
        return "hashed"

    def open(self) -> None:
        self._open.set()


async def test_a_hash_is_argon2id_of_the_chosen_cost_and_never_the_same_twice(passwords: Passwords) -> None:
    first, second = await passwords.hash("correct horse"), await passwords.hash("correct horse")
    parameters = extract_parameters(first)
    assert (parameters.type, parameters.memory_cost, parameters.time_cost) == (ArgonType.ID, 19_456, 2)
    assert parameters.parallelism == 1
    assert first != second


async def test_only_the_right_password_matches_over_its_full_length(passwords: Passwords) -> None:
    long = "é" * 80
    stored = await passwords.hash(long)
    assert await passwords.matches(stored, long)
    assert not await passwords.matches(stored, long[:-1])
    assert not await passwords.matches(stored, long[:-1] + "e")


@pytest.mark.parametrize("password", ["", "\0", "a\0b", "\udc80", "😀" * 128, "x" * 100_000])
async def test_any_text_can_be_tried(passwords: Passwords, password: str) -> None:
    stored = await passwords.hash("correct horse")
    assert not await passwords.matches(stored, password)
    assert not await passwords.matches(None, password)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "",
        "correct horse",
        BCRYPT,
        "$argon2id$v=19$m=8388608,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
        "$argon2id$v=19$m=65536,t=4294967295,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
        "$argon2id$v=19$m=65536,t=1,p=4096$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
        "$argon2id$v=19$m=-1,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
        "$argon2id$v=19$m=1,t=0,p=0$!!$!!",
        "$argon2id$v=19$m=8,t=1,p=1$$",
        "$argon2id$v=99$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
        "$argon2id$v=19$m=8,t=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
        "$argon2id$v=19$m=x,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
        "$argon2id$v=19$m=8,t=1,p=1$\u00e9$\u00e9",
    ],
)
async def test_a_stored_hash_that_is_none_or_unaffordable_matches_nothing(
    passwords: Passwords, stored: str | None
) -> None:
    async with asyncio.timeout(1):
        assert not await passwords.matches(stored, "correct horse")


async def test_a_match_with_nobodys_hash_is_no_match(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DUMMY_HASH", await passwords.hash("correct horse"))
    assert not await passwords.matches(None, "correct horse")
    assert not await passwords.matches(BCRYPT, "correct horse")


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
async def test_a_password_of_supabase_matches_its_bcrypt_hash(passwords: Passwords, prefix: str) -> None:
    stored = prefix + bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4)).decode()[4:]
    assert await passwords.matches(stored, "correct horse")
    assert not await passwords.matches(stored, "wrong horse")
    assert is_outdated(stored)
    assert not is_outdated(await passwords.hash("correct horse"))


async def test_bcrypt_cuts_no_password(passwords: Passwords) -> None:
    stored = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert await passwords.matches(stored, "x" * 72)
    assert not await passwords.matches(stored, "x" * 73)


@pytest.mark.parametrize(
    "stored", ["$2b$03$" + "." * 53, "$2b$31$" + "." * 53, "$2b$10$" + "." * 52, "$2x$10$" + "." * 53]
)
async def test_a_bcrypt_hash_that_nobody_made_is_never_right(passwords: Passwords, stored: str) -> None:
    assert not await passwords.matches(stored, "correct horse")
    assert not await passwords.matches(stored, "nul\0nul")


async def test_nobodys_hash_costs_what_ours_do(passwords: Passwords) -> None:
    ours, nobodys = extract_parameters(await passwords.hash("x")), extract_parameters(module._DUMMY_HASH)
    assert ours == nobodys


async def test_an_unknown_user_takes_as_long_as_a_wrong_password(passwords: Passwords) -> None:
    stored = {"unknown": None, "wrong": await passwords.hash("correct horse"), "placeholder": "!"}
    samples: dict[str, list[float]] = {name: [] for name in stored}
    for _ in range(15):
        for name, value in stored.items():
            started = time.perf_counter()
            await passwords.matches(value, "wrong horse")
            samples[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in samples.items()}
    assert max(medians.values()) < 2 * min(medians.values()), medians  # it would be a thousandfold


async def test_two_are_hashed_at_once_twenty_wait_and_the_next_is_told_to_come_back(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(passwords, monkeypatch)
    accepted = [asyncio.ensure_future(passwords.hash("x")) for _ in range(MAX_CONCURRENT + MAX_WAITING)]
    await asyncio.sleep(0)  # each has taken its place
    with pytest.raises(Unavailable) as caught:
        await passwords.hash("x")
    assert caught.value.retry_after_s > 0
    gate.open()
    assert await asyncio.gather(*accepted) == ["hashed"] * 22
    assert gate.most == 2
    assert await passwords.hash("x") == "hashed"


async def test_whoever_leaves_the_line_makes_room(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(passwords, monkeypatch)
    waiting = [asyncio.ensure_future(passwords.hash("x")) for _ in range(MAX_CONCURRENT + MAX_WAITING)]
    await asyncio.sleep(0)
    waiting[-1].cancel()
    await asyncio.wait({waiting[-1]})
    latecomer = asyncio.ensure_future(passwords.hash("x"))
    gate.open()
    assert await latecomer == "hashed"
    await asyncio.wait(waiting)


async def test_hashes_of_fewer_rounds_still_match(passwords: Passwords) -> None:
    stored = PasswordHasher(time_cost=1, memory_cost=64, parallelism=2).hash("correct horse")
    assert await passwords.matches(stored, "correct horse")
    assert not await passwords.matches(stored, "wrong horse")


@pytest.mark.parametrize("password", ["aX9kq27t", "x" * 128, "ünïcödé!", "😀" * 8, "        "])
def test_eight_to_128_characters_of_any_kind_can_be_chosen(password: str) -> None:
    require_acceptable(password, EMAIL)


@pytest.mark.parametrize("password", ["", "1234567", "x" * 129, "1234567\0", "1234567\ud800", "\udfff1234567"])
def test_other_passwords_cannot_be_chosen_and_are_not_repeated_in_the_error(password: str) -> None:
    with pytest.raises(Invalid) as caught:
        require_acceptable(password, EMAIL)
    assert [error.field for error in caught.value.errors] == ["password"]
    assert not password or password not in caught.value.detail


async def test_c4_a_password_is_hashed_in_nfc_and_matches_in_every_form(passwords: Passwords) -> None:
    composed, decomposed = (unicodedata.normalize(form, "né en été") for form in ("NFC", "NFD"))
    for chosen in (composed, decomposed):
        stored = await passwords.hash(chosen)
        assert await passwords.matches(stored, composed)
        assert await passwords.matches(stored, decomposed)
        assert not await passwords.matches(stored, "ne en ete")


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", "\u202f", "\u2003"])
async def test_c4_every_blank_of_a_keyboard_is_the_same(passwords: Passwords, blank: str) -> None:
    typed = f"correct{blank}horse battery"
    assert await passwords.matches(await passwords.hash(typed), "correct horse battery")
    assert await passwords.matches(await passwords.hash("correct horse battery"), typed)
    assert await passwords.matches(PasswordHasher(time_cost=1, memory_cost=64).hash(typed), typed)
    assert not await passwords.matches(await passwords.hash(typed), "correcthorse battery")


async def test_c4_a_hash_of_the_raw_form_still_matches_that_form(passwords: Passwords) -> None:
    """Accounts from before the normalisation, and imported ones."""
    decomposed = unicodedata.normalize("NFD", "né en été")
    for stored in (
        PasswordHasher(time_cost=1, memory_cost=64).hash(decomposed),
        bcrypt.hashpw(decomposed.encode(), bcrypt.gensalt(4)).decode(),
    ):
        assert await passwords.matches(stored, decomposed)


def test_c4_the_length_of_a_password_is_that_of_its_nfc_form() -> None:
    require_acceptable(unicodedata.normalize("NFD", "é" * 100), EMAIL)
    with pytest.raises(Invalid):
        require_acceptable(unicodedata.normalize("NFD", "é" * 7), EMAIL)


@pytest.mark.parametrize("password", ["password", "12345678", "PassWord1", "iloveyou1"])
def test_common_passwords_are_refused_in_any_case(password: str) -> None:
    with pytest.raises(Invalid, match="most common passwords"):
        require_acceptable(password, EMAIL)


@pytest.mark.parametrize("password", ["alice@example.com", "Alice@Example.com!", "alice1987", "my alice"])
def test_a_password_made_of_the_address_is_refused(password: str) -> None:
    with pytest.raises(Invalid, match="e-mail address"):
        require_acceptable(password, EMAIL)


@pytest.mark.parametrize(
    ("password", "email"),
    [("alice in wonderland", EMAIL), ("example.com", EMAIL), ("aX9kq27t", "a@example.com"), ("malice 1", "bob@b.co")],
)
def test_a_password_may_hold_a_part_of_the_address_beside_enough_else(password: str, email: str) -> None:
    require_acceptable(password, email)


def test_the_list_holds_what_can_be_chosen_at_all() -> None:
    common = module._common_passwords()
    assert 9_000 < len(common) < 11_000
    assert all(len(password) >= MIN_PASSWORD_LENGTH and password == password.casefold() for password in common)
