"""The real client libraries of Supabase Auth on our `/auth/v1`: one scenario, in Python and in JavaScript."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from supabase_auth import AsyncGoTrueClient
from supabase_auth.errors import AuthApiError, AuthWeakPasswordError

from tests.acceptance.conftest import Api, Start
from tests.deno import DENO, ENVIRONMENT, fetch_packages

CLIENTS = Path(__file__).parents[1] / "clients"
EMAIL, PASSWORD, NEW_PASSWORD = "alice@example.com", "correct horse battery", "staple of the horse"
TIMEOUT_S = 60


@pytest.fixture
async def url(start: Start) -> str:
    api: Api = await start()
    return str(api.client.make_url("")).rstrip("/")


async def let_time_pass(database: str) -> None:
    """A refresh token that was traded is taken again for ten seconds."""
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE auth.refresh_tokens SET updated_at = updated_at - interval '1 minute'")
    await connection.close()


@pytest.fixture
async def new_client(url: str) -> AsyncIterator[Callable[[], AsyncGoTrueClient]]:
    """Makes clients that remember nothing of each other."""
    made: list[AsyncGoTrueClient] = []

    def make() -> AsyncGoTrueClient:
        headers = {"apikey": "sb_publishable_development"}
        made.append(
            AsyncGoTrueClient(url=f"{url}/auth/v1", headers=headers, auto_refresh_token=False, persist_session=False)
        )
        return made[-1]

    yield make
    for client in made:
        await client.close()


async def test_the_scenario_in_python(new_client: Callable[[], AsyncGoTrueClient], database: str) -> None:
    client = new_client()
    signed_up = await client.sign_up({"email": EMAIL, "password": PASSWORD, "options": {"data": {"name": "Alice"}}})
    assert signed_up.user is not None
    assert signed_up.user.user_metadata["name"] == "Alice"
    with pytest.raises(AuthWeakPasswordError) as weak:
        await new_client().sign_up({"email": "weak@example.com", "password": "x"})
    assert weak.value.reasons == ["length"]
    with pytest.raises(AuthApiError) as wrong:
        await new_client().sign_in_with_password({"email": EMAIL, "password": "not this one"})
    assert (wrong.value.code, wrong.value.status) == ("invalid_credentials", 400)
    signed_in = await client.sign_in_with_password({"email": EMAIL, "password": PASSWORD})
    assert signed_in.session is not None
    first = signed_in.session.refresh_token
    found = await client.get_user()
    assert found is not None
    assert found.user.id == signed_up.user.id
    refreshed = await client.refresh_session(first)
    assert refreshed.session is not None
    assert refreshed.session.refresh_token != first
    await client.refresh_session(refreshed.session.refresh_token)  # a used child: its parent is refused from now on
    await let_time_pass(database)
    with pytest.raises(AuthApiError) as reused:
        await new_client().refresh_session(first)
    assert str(reused.value.code) == "refresh_token_already_used"
    with pytest.raises(AuthApiError) as ended:
        await client.get_user(refreshed.session.access_token)
    assert ended.value.code == "session_not_found"
    await client.sign_in_with_password({"email": EMAIL, "password": PASSWORD})
    with pytest.raises(AuthApiError) as same:
        await client.update_user({"password": PASSWORD})
    assert same.value.code == "same_password"
    assert (await client.update_user({"password": NEW_PASSWORD})).user.email == EMAIL
    await client.sign_out()
    assert (await client.get_session()) is None
    again = await client.sign_in_with_password({"email": EMAIL, "password": NEW_PASSWORD})
    assert again.user is not None


SAID = [
    ["sign up", [EMAIL, "Alice", None]],
    ["weak", ["AuthWeakPasswordError", "weak_password", 422]],
    ["wrong password", ["invalid_credentials", 400]],
    ["sign in", [True, "bearer", None]],
    ["get user", [EMAIL, 1, None]],
    ["refresh", [True, None]],
    ["wait", None],
    ["reused", ["refresh_token_already_used", 400]],
    ["ended", ["AuthSessionMissingError"]],
    ["same password", ["same_password"]],
    ["update password", [EMAIL, None]],
    ["sign out", [None, None]],
    ["sign in again", [EMAIL, None]],
]


@pytest.mark.timeout(240)  # the packages are fetched once
async def test_the_scenario_in_javascript(url: str, database: str) -> None:
    await asyncio.to_thread(fetch_packages, CLIENTS / "accounts.ts")
    command = [str(DENO), "run", "--quiet", "--frozen", "--allow-net", "--allow-env", "--allow-read", "accounts.ts"]
    process = await asyncio.create_subprocess_exec(
        *command,
        *(url, EMAIL, PASSWORD, NEW_PASSWORD),
        cwd=CLIENTS,
        env=ENVIRONMENT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            said = [line async for line in _steps(process, database)]
            assert process.stderr is not None
            problems = (await process.stderr.read()).decode()
            assert await process.wait() == 0, problems
    finally:
        if process.returncode is None:
            process.kill()
    assert said == SAID, problems


async def _steps(process: asyncio.subprocess.Process, database: str) -> Any:
    assert process.stdout is not None
    assert process.stdin is not None
    async for line in process.stdout:
        step = json.loads(line)
        yield step
        if step[0] == "wait":
            await let_time_pass(database)
            process.stdin.write(b"\n")
            await process.stdin.drain()
