"""The project's keys over time: fetched when needed, kept while they are good, rotated without a restart."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from server.auth import key_set
from server.auth.issuers import project_issuers
from server.auth.key_set import COOLDOWN_S, MAX_BODY_BYTES, MAX_PAUSE_S, TTL_S, UNKNOWN_S, KeySet
from server.auth.public_keys import name_unusable_keys
from server.auth.tokens import SigningKey, TokenVerifier
from server.errors import Unauthenticated, Unavailable
from tests.fakes.clock import Clock
from tests.fakes.jwks import KeyServer, serve_keys
from tests.fakes.signers import Signer, ec_signer, rsa_signer, secret_signer

NOW = 1_795_000_000
USER = "6f1c2b8e-9d3a-4c55-8a77-0b8f3b1d2e4f"
OLD, NEW, NEWEST = ec_signer("old"), rsa_signer("new"), ec_signer("newest")


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with serve_keys(OLD) as keys:
        yield keys


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def keys(server: KeyServer, clock: Clock) -> AsyncIterator[KeySet]:
    found = KeySet(server.url, clock=clock)
    yield found
    await found.close()


@pytest.fixture
def verifier(server: KeyServer, keys: KeySet) -> TokenVerifier:
    return TokenVerifier(SigningKey(), issuers=project_issuers([server.base_url]), public_keys=keys, clock=lambda: NOW)


def token(server: KeyServer, signer: Signer) -> str:
    claims = {"iss": server.base_url, "sub": USER, "aud": "authenticated", "role": "authenticated"}
    return signer.token(claims | {"iat": NOW, "exp": NOW + 600})


async def is_good(verifier: TokenVerifier, text: str) -> bool:
    return await status_of(verifier, text) == 200


async def status_of(verifier: TokenVerifier, text: str) -> int:
    try:
        assert str((await verifier.identify(text)).user_id) == USER
    except (Unauthenticated, Unavailable) as problem:
        return problem.status
    return 200


async def test_c6_an_unknown_key_is_503_until_the_list_was_asked_again(
    server: KeyServer, verifier: TokenVerifier, clock: Clock
) -> None:
    """A 401 would sign out the users of a project that has changed its key a moment ago."""
    assert await is_good(verifier, token(server, OLD))
    server.signers.append(NEW)
    clock.now += 1
    with pytest.raises(Unavailable) as caught:
        await verifier.identify(token(server, NEW))
    assert caught.value.headers["Retry-After"] == f"{COOLDOWN_S - 1:.0f}"
    clock.now += COOLDOWN_S - 1
    assert [await status_of(verifier, token(server, signer)) for signer in (NEW, NEWEST)] == [200, 503]
    clock.now += COOLDOWN_S
    assert await status_of(verifier, token(server, NEWEST)) == 401, "the list was asked and does not have it"
    assert server.calls == 3


async def test_c6_a_list_that_cannot_be_fetched_says_nothing_of_a_new_key(
    server: KeyServer, verifier: TokenVerifier, clock: Clock
) -> None:
    assert await is_good(verifier, token(server, OLD))
    server.signers.append(NEW)
    server.fault = web.Response(status=500)
    clock.now += COOLDOWN_S
    assert await status_of(verifier, token(server, NEW)) == 503
    server.fault = None
    clock.now += COOLDOWN_S
    assert await status_of(verifier, token(server, NEW)) == 200


async def test_c6_a_token_that_no_key_can_make_valid_is_401_at_once(server: KeyServer, verifier: TokenVerifier) -> None:
    """An expired one is refreshed by its client, which has to know at once."""
    assert await is_good(verifier, token(server, OLD))
    claims = {"iss": server.base_url, "sub": USER, "aud": "authenticated", "role": "authenticated", "iat": NOW - 9000}
    assert await status_of(verifier, NEW.token(claims | {"exp": NOW - 5400})) == 401
    forged = secret_signer("no secret of the project", kid="made up")
    assert await status_of(verifier, forged.token(claims | {"exp": NOW + 600})) == 401


async def settle(keys: KeySet) -> None:
    """Until no fetch is under way."""
    if keys._fetching is not None:
        await asyncio.wait({keys._fetching})


async def test_the_first_token_waits_for_the_keys_and_the_next_do_not(
    server: KeyServer, verifier: TokenVerifier
) -> None:
    assert [await is_good(verifier, token(server, OLD)) for _ in range(3)] == [True] * 3
    assert server.calls == 1


async def test_a_hundred_first_tokens_share_one_fetch(server: KeyServer, verifier: TokenVerifier) -> None:
    server.gate.clear()
    answers = [asyncio.create_task(is_good(verifier, token(server, OLD))) for _ in range(100)]
    await server.called.wait()
    server.gate.set()
    assert await asyncio.gather(*answers) == [True] * 100
    assert server.calls == 1


async def test_a_caller_who_leaves_does_not_take_the_fetch_along(server: KeyServer, verifier: TokenVerifier) -> None:
    server.gate.clear()
    leaving = asyncio.create_task(is_good(verifier, token(server, OLD)))
    staying = asyncio.create_task(is_good(verifier, token(server, OLD)))
    await server.called.wait()
    leaving.cancel()
    await asyncio.wait({leaving})
    server.gate.set()
    assert await staying
    assert server.calls == 1


async def test_a_rotation_is_seen_by_the_first_token_of_the_new_key(
    server: KeyServer, verifier: TokenVerifier, clock: Clock
) -> None:
    assert await is_good(verifier, token(server, OLD))
    server.signers.append(NEW)
    clock.now += COOLDOWN_S
    assert await is_good(verifier, token(server, NEW))
    assert await is_good(verifier, token(server, OLD)), "the previous key is published still"
    assert server.calls == 2


async def test_a_key_of_right_after_a_fetch_is_asked_for_once_the_cooldown_is_over(
    server: KeyServer, verifier: TokenVerifier, clock: Clock
) -> None:
    assert await is_good(verifier, token(server, OLD))
    server.signers.append(NEW)
    assert not await is_good(verifier, token(server, NEW)), "the list was fetched a moment ago"
    clock.now += COOLDOWN_S
    assert await is_good(verifier, token(server, NEW))


async def test_a_revoked_key_is_forgotten_with_all_its_tokens(
    server: KeyServer, verifier: TokenVerifier, keys: KeySet, clock: Clock
) -> None:
    assert await is_good(verifier, token(server, OLD))
    server.signers = [NEW]
    assert await is_good(verifier, token(server, OLD)), "good until the list is due again"
    clock.now += TTL_S
    await is_good(verifier, token(server, OLD))
    await settle(keys)
    assert not await is_good(verifier, token(server, OLD))
    assert await is_good(verifier, token(server, NEW))


async def test_an_unknown_key_is_asked_for_once_in_a_while(
    server: KeyServer, verifier: TokenVerifier, clock: Clock
) -> None:
    assert await is_good(verifier, token(server, OLD))
    for _ in range(20):
        assert not await is_good(verifier, token(server, NEWEST))
    assert server.calls == 1, "it cools down"
    clock.now += COOLDOWN_S
    for _ in range(20):
        assert not await is_good(verifier, token(server, NEWEST))
    assert server.calls == 2
    clock.now += COOLDOWN_S
    assert not await is_good(verifier, token(server, NEWEST))
    assert server.calls == 2, "it is known to be unknown"
    clock.now += UNKNOWN_S
    server.signers.append(NEWEST)
    assert await is_good(verifier, token(server, NEWEST))


async def test_a_storm_of_unknown_keys_costs_one_fetch_and_little_memory(
    server: KeyServer, verifier: TokenVerifier, keys: KeySet, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_set, "MAX_UNKNOWN", 10)
    assert await is_good(verifier, token(server, OLD))
    clock.now += COOLDOWN_S
    for number in range(50):
        assert not await is_good(verifier, ec_signer(f"made-up-{number}").token({"sub": USER}))
    assert server.calls == 2
    assert len(keys._unknown) <= 10


FAULTS = {
    "500": web.Response(status=500),
    "HTML": web.Response(body=b"<html>paused</html>", headers={"Content-Type": "text/html"}),
    "a list": web.Response(body=b"[]"),
    "no list of keys": web.Response(body=b'{"keys":{}}'),
    "too much": web.Response(body=b'{"keys":[' + b" " * MAX_BODY_BYTES + b"]}"),
    "a way elsewhere": web.Response(status=302, headers={"Location": "/elsewhere"}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_keys_that_cannot_be_fetched_again_stay_good(
    server: KeyServer, verifier: TokenVerifier, keys: KeySet, clock: Clock, fault: web.Response
) -> None:
    assert await is_good(verifier, token(server, OLD))
    server.fault = fault
    clock.now += TTL_S
    assert await is_good(verifier, token(server, OLD))
    await settle(keys)
    assert await is_good(verifier, token(server, OLD))
    assert server.calls == 2
    server.fault, server.signers = None, [NEW]
    clock.now += COOLDOWN_S
    assert await is_good(verifier, token(server, OLD))
    await settle(keys)
    assert await is_good(verifier, token(server, NEW))
    assert server.calls == 3


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_nothing_is_said_of_a_token_before_the_keys_were_ever_there(
    server: KeyServer, verifier: TokenVerifier, clock: Clock, fault: web.Response
) -> None:
    server.fault = fault
    with pytest.raises(Unavailable) as caught:
        await verifier.identify(token(server, OLD))
    assert caught.value.headers["Retry-After"]
    server.fault = None
    clock.now += COOLDOWN_S
    assert await is_good(verifier, token(server, OLD))


async def test_while_they_are_away_attempts_grow_rare(server: KeyServer, verifier: TokenVerifier, clock: Clock) -> None:
    server.fault = web.Response(status=503)
    for _ in range(100):
        with pytest.raises(Unavailable):
            await verifier.identify(token(server, OLD))
        clock.now += COOLDOWN_S
    assert 4 < server.calls < 4 + 100 * COOLDOWN_S / MAX_PAUSE_S + 2


async def test_a_project_without_public_keys_has_an_empty_list(server: KeyServer, clock: Clock) -> None:
    server.signers = []
    keys = KeySet(server.url, clock=clock)
    verifier = TokenVerifier(
        SigningKey("s" * 32), issuers=project_issuers([server.base_url]), public_keys=keys, clock=lambda: NOW
    )
    try:
        assert not await is_good(verifier, token(server, OLD)), "an unknown key is 401 here, not 503"
    finally:
        await keys.close()


async def test_closing_ends_a_fetch_that_is_under_way(server: KeyServer, clock: Clock) -> None:
    keys = KeySet(server.url, clock=clock)
    server.gate.clear()
    waiting = asyncio.create_task(keys.wait_for_key("old"))
    await server.called.wait()
    await keys.close()
    await waiting
    assert keys.get("old") is None


async def test_c8_a_key_that_cannot_be_used_is_named_in_the_log(
    server: KeyServer, verifier: TokenVerifier, clock: Clock
) -> None:
    """Once for each list, and not again with every download."""
    jwk = {
        "kty": "OKP",
        "crv": "Ed25519",
        "kid": "ed",
        "alg": "EdDSA",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
    server.signers.append(Signer("EdDSA", lambda _: b"", "ed", jwk))
    with capture_logs() as logs:
        for _ in range(2):
            assert await is_good(verifier, token(server, OLD))
            assert verifier._public_keys is not None
            await settle(verifier._public_keys)
            clock.now += TTL_S
    ignored = [entry for entry in logs if entry["event"] == "public_keys_ignored"]
    assert [entry["keys"] for entry in ignored] == [["ed (OKP Ed25519 EdDSA)"]]
    assert "ES256" in ignored[0]["fix"]


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (b'{"keys":[{"kty":"oct","kid":"s"}]}', ["s (oct)"]),
        (b'{"keys":[1,{}]}', ["without a kid (no type)"] * 2),
        (b'{"keys":[{"kid":7,"kty":["x"]}]}', ["7 (['x'])"]),
        (b'{"keys":[]}', []),
    ],
)
def test_c8_every_unusable_key_has_a_name(listed: bytes, names: list[str]) -> None:
    assert name_unusable_keys(listed) == names
