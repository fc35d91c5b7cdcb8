"""The cache of API keys: which checks cost a statement, and how long a revoked key may be accepted."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from server.auth.api_keys import key_cache
from server.auth.api_keys.key_cache import (
    ACTIVE_S,
    MAX_AGE_S,
    RECORD_INTERVAL_S,
    REFRESH_INTERVAL_S,
    UNKNOWN_S,
    KeyCache,
)
from server.auth.api_keys.key_format import digest_of, mint_key
from server.auth.principal import ApiKey, Principal, Scope
from server.errors import Unauthenticated, Unavailable
from server.storage.database import DatabaseAway, DedicatedConnection
from tests.fakes.clock import Clock
from tests.fakes.statements import FakeStatements

FIND, RECORD = "find_api_keys", "record_key_uses"


class Desk:
    """A cache whose actor runs, on a clock that a test moves, and the keys that its database has."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.rows: dict[bytes, dict[str, Any]] = {}
        self.statements = FakeStatements(find_api_keys=self._find)
        self.cache = KeyCache(cast("DedicatedConnection", self.statements), clock=self.clock)

    def add(self, **changes: Any) -> str:
        """Store a key, as any instance may have done."""
        key = mint_key()
        self.rows[digest_of(key)] = {
            "hash": digest_of(key),
            "id": uuid4(),
            "user_id": uuid4(),
            "scopes": ["create", "read"],
            "requests_per_minute": None,
            "expires_at": None,
            "expires_in_s": None,
        } | changes
        return key

    def id_of(self, key: str) -> UUID:
        found: UUID = self.rows[digest_of(key)]["id"]
        return found

    def _find(self, digests: list[bytes]) -> list[dict[str, Any]]:
        self.clock.now += 0.001
        return [self.rows[digest] for digest in digests if digest in self.rows]

    async def identify(self, key: str) -> Principal:
        return self.cache.find(key) or await self.cache.look_up(key)

    async def pass_time(self, seconds: float, *, refresh: bool = True) -> None:
        """Let time pass, in steps of a refresh."""
        while seconds > 0:
            step = min(seconds, REFRESH_INTERVAL_S)
            self.clock.now += step
            seconds -= step
            if refresh:
                await self.cache.work()

    @property
    def lookups(self) -> int:
        return self.statements.names.count(FIND)


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(key_cache, "_PAUSE_S", 0.0)
    desk = Desk()
    actor = asyncio.create_task(desk.cache.run())
    yield desk
    actor.cancel()
    await asyncio.wait({actor})


async def test_a_known_key_costs_no_statement(desk: Desk) -> None:
    key = desk.add()
    first = await desk.identify(key)
    sent = len(desk.statements.asked)
    for _ in range(1000):
        assert desk.cache.find(key) is first
    assert len(desk.statements.asked) == sent
    assert first.key is not None
    assert (first.user_id, first.key.id) == (desk.rows[digest_of(key)]["user_id"], desk.id_of(key))
    assert first.key.scopes == {Scope.CREATE, Scope.READ}


@pytest.mark.parametrize("wrong", ["ask_short", "ask_" + "a" * 49, "ask_" + "a" * 48 + "!"])
async def test_no_key_at_all_costs_no_statement(desk: Desk, wrong: str) -> None:
    with pytest.raises(Unauthenticated):
        await desk.identify(wrong)
    assert desk.lookups == 0


async def test_an_unknown_key_costs_one_statement_for_a_while(desk: Desk) -> None:
    key = mint_key()
    for _ in range(100):
        with pytest.raises(Unauthenticated):
            await desk.identify(key)
    assert desk.lookups == 1
    desk.clock.now += UNKNOWN_S
    with pytest.raises(Unauthenticated):
        await desk.identify(key)
    assert desk.lookups == 2


async def test_a_flood_of_guesses_costs_one_statement_at_a_time(desk: Desk) -> None:
    good = desk.add()
    guesses = [mint_key() for _ in range(900)]
    answers = await asyncio.gather(*map(desk.identify, [*guesses, good]), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unauthenticated] * 900 + [Principal]
    assert desk.lookups <= 2


async def test_a_flood_does_not_keep_known_keys_from_being_read_again(desk: Desk) -> None:
    key = desk.add()
    await desk.identify(key)
    guesses: list[asyncio.Future[Principal]] = []

    def answer_and_get_another(digests: list[bytes]) -> list[dict[str, Any]]:
        if len(guesses) < 50:
            guesses.append(asyncio.ensure_future(desk.identify(mint_key())))
        desk.clock.now += MAX_AGE_S / 10
        return desk._find(digests)

    desk.statements.answers[FIND] = answer_and_get_another
    with pytest.raises(Unauthenticated):
        await desk.identify(mint_key())
    while len(guesses) < 50:
        await asyncio.wait(set(guesses))
        assert desk.cache.find(key) is not None
    await asyncio.gather(*guesses, return_exceptions=True)


async def test_more_guesses_than_can_wait_are_put_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "MAX_WAITING", 10)
    known = desk.add()
    await desk.identify(known)
    guesses = [asyncio.ensure_future(desk.identify(mint_key())) for _ in range(12)]
    await asyncio.sleep(0)
    assert desk.cache.find(known) is not None
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["Unauthenticated"] * 10 + ["Unavailable"] * 2


async def test_the_tables_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "MAX_KNOWN", 5)
    monkeypatch.setattr(key_cache, "MAX_UNKNOWN", 5)
    for _ in range(8):
        await desk.identify(desk.add())
        with pytest.raises(Unauthenticated):
            await desk.identify(mint_key())
        desk.cache.recheck(uuid4())
    assert (len(desk.cache._known), len(desk.cache._unknown), len(desk.cache._rechecked)) == (5, 5, 5)


async def test_a_key_in_use_is_read_again_in_the_background(desk: Desk) -> None:
    key = desk.add()
    await desk.identify(key)
    for _ in range(20):
        await desk.pass_time(REFRESH_INTERVAL_S)
        assert desk.cache.find(key) is not None


async def test_a_key_that_was_revoked_elsewhere_is_refused_after_a_refresh(desk: Desk) -> None:
    key = desk.add()
    await desk.identify(key)
    del desk.rows[digest_of(key)]
    assert desk.cache.find(key) is not None
    await desk.pass_time(REFRESH_INTERVAL_S)
    with pytest.raises(Unauthenticated):
        desk.cache.find(key)


async def test_no_key_is_accepted_longer_than_its_greatest_age_without_an_answer(desk: Desk) -> None:
    key = desk.add()
    await desk.identify(key)
    desk.statements.answers[FIND] = DatabaseAway("gone")
    desk.clock.now += MAX_AGE_S - 0.1
    assert desk.cache.find(key) is not None
    desk.clock.now += 0.2
    assert desk.cache.find(key) is None
    with pytest.raises(Unavailable):
        await desk.cache.look_up(key)
    desk.statements.answers[FIND] = desk._find
    assert (await desk.identify(key)).key is not None


async def test_a_statement_that_fails_leaves_the_actor_running(desk: Desk) -> None:
    import asyncpg  # noqa: PLC0415 - this test alone

    key = desk.add()
    desk.statements.answers[FIND] = asyncpg.InsufficientPrivilegeError("no right to read accounts")
    with pytest.raises(Unavailable):
        await desk.identify(key)
    desk.statements.answers[FIND] = desk._find
    await desk.identify(key)


async def test_a_key_is_refused_from_its_expiry_on(desk: Desk) -> None:
    key = desk.add(expires_at=datetime(2026, 1, 1, tzinfo=UTC), expires_in_s=1.5)
    await desk.identify(key)
    desk.clock.now += 1.4
    assert desk.cache.find(key) is not None
    del desk.rows[digest_of(key)]
    desk.clock.now += 0.2
    with pytest.raises(Unauthenticated):
        await desk.identify(key)


@pytest.mark.parametrize("by", ["id", "user_id"])
async def test_a_key_is_asked_for_after_a_hint_before_it_is_accepted_again(desk: Desk, by: str) -> None:
    key, other = desk.add(), desk.add()
    await desk.identify(key)
    await desk.identify(other)
    subject = desk.rows.pop(digest_of(key))[by]
    desk.cache.recheck(subject)
    assert desk.cache.find(other) is not None
    with pytest.raises(Unauthenticated):
        await desk.identify(key)


async def test_an_answer_from_before_a_revocation_does_not_count(desk: Desk) -> None:
    key = desk.add()
    key_id = desk.id_of(key)
    is_sent, may_answer = asyncio.Event(), asyncio.Event()

    async def answer_late(digests: list[bytes]) -> list[dict[str, Any]]:
        rows = desk._find(digests)
        is_sent.set()
        await may_answer.wait()
        return rows

    desk.statements.answers[FIND] = answer_late
    asked = asyncio.ensure_future(desk.identify(key))
    await is_sent.wait()
    del desk.rows[digest_of(key)]
    desk.cache.recheck(key_id)
    desk.clock.now += 0.001
    may_answer.set()
    with pytest.raises(Unauthenticated):
        await asked


async def test_who_watches_a_key_hears_of_its_end_also_where_it_is_not_used(desk: Desk) -> None:
    key = desk.add()
    principal = await desk.identify(key)
    ended = asyncio.Event()
    assert isinstance(principal.key, ApiKey)
    with desk.cache.watch(principal.key, ended.set):
        await desk.pass_time(2 * ACTIVE_S)
        assert not ended.is_set()
        del desk.rows[digest_of(key)]
        await desk.pass_time(REFRESH_INTERVAL_S)
        assert ended.is_set()
    assert desk.cache._watchers == {}


async def test_a_key_that_is_not_used_leaves_the_cache_and_no_statement_is_sent_for_it(desk: Desk) -> None:
    await desk.identify(desk.add())
    await desk.pass_time(ACTIVE_S + 2 * REFRESH_INTERVAL_S)
    sent = len(desk.statements.asked)
    await desk.pass_time(10 * REFRESH_INTERVAL_S)
    assert len(desk.statements.asked) == sent
    assert not desk.cache._known


async def test_uses_of_all_keys_are_recorded_together_and_once_a_minute(desk: Desk) -> None:
    keys = [desk.add() for _ in range(20)]
    for key in keys:
        await desk.identify(key)
    for _ in range(int(2.5 * RECORD_INTERVAL_S / REFRESH_INTERVAL_S)):
        for key in keys:
            assert desk.cache.find(key) is not None
        await desk.pass_time(REFRESH_INTERVAL_S)
    recorded = [ids for ids, *_ in desk.statements.args_of(RECORD)]
    assert sum(map(len, recorded)) == 3 * len(keys)
    assert len(recorded) <= 6  # the first keys may be recorded before the others are looked up


async def test_the_last_use_is_recorded_with_its_age(desk: Desk) -> None:
    key = desk.add()
    await desk.identify(key)
    await desk.pass_time(RECORD_INTERVAL_S / 2)
    assert desk.cache.find(key) is not None
    await desk.pass_time(ACTIVE_S)
    *_, (ids, [age_s], _) = desk.statements.args_of(RECORD)
    assert ids == [desk.id_of(key)]
    assert age_s == pytest.approx(RECORD_INTERVAL_S / 2, abs=2 * REFRESH_INTERVAL_S)


async def test_a_refresh_leaves_the_rate_of_a_key_as_it_is(desk: Desk) -> None:
    key = desk.add(requests_per_minute=2)
    before = (await desk.identify(key)).key
    await desk.pass_time(REFRESH_INTERVAL_S)
    after = (await desk.identify(key)).key
    assert before is not None
    assert after is before
    assert before.rates is not None


async def test_scopes_of_a_later_version_are_passed_over(desk: Desk) -> None:
    principal = await desk.identify(desk.add(scopes=["read", "dance"]))
    assert principal.key is not None
    assert principal.key.scopes == {Scope.READ}
