"""API keys over HTTP: what a key may do, that it works everywhere a token does, and that its end is the end of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import openai
import pytest
from openai import AsyncOpenAI

from server import app as application
from server.auth.api_keys import key_cache
from server.auth.api_keys.api_keys import MAX_KEYS
from server.auth.api_keys.key_format import mint_key
from server.auth.principal import Scope
from server.http import keys
from server.storage.database import DedicatedConnection
from server.storage.queries import statements as statements_by_name
from server.storage.reader import PooledQueries
from tests.acceptance.conftest import Api, Reply, Start, created, events_of
from tests.acceptance.test_auth import assert_problem, assert_unauthenticated
from tests.acceptance.test_relay import hear_each_other
from tests.fakes.media import png
from tests.fixtures.document import DOCUMENT
from tests.rows import connected
from tests.signals import log_lines, until

ELSEWHERE_S = 5.0
"""The promise: how long a revoked key may work at another instance."""
SLOW = "offline/slow-20s"
LONG = "offline/long-stream"
FIELDS = {
    *("id", "prefix", "name", "scopes", "requests_per_minute", "created_at", "expires_at", "last_used_at"),
}  # fmt: skip


@dataclass(slots=True)
class Program:
    """A client with an API key of a user."""

    api: Api
    id: str
    key: str


async def make_key(user: Api, *scopes: str, **fields: Any) -> Program:
    if scopes:
        fields["scopes"] = list(scopes)
    reply = await user.post("/api/keys", {"name": "test", **fields})
    assert reply.status == 201, reply.body
    return with_key(user, reply)


def with_key(user: Api, reply: Reply) -> Program:
    return Program(Api(user.client, user.app, reply.json["key"], user.user_id), reply.json["id"], reply.json["key"])


def at(other: Api, program: Program) -> Api:
    """The same key, at another instance."""
    return Api(other.client, other.app, program.key, program.api.user_id)


# --- the way through ---


@pytest.mark.parametrize("prefix", ["/api", ""])
async def test_a_key_from_its_beginning_to_its_end(api: Api, prefix: str) -> None:
    body = {"name": "nightly job", "scopes": ["read", "create"], "expires_in_s": 3600, "requests_per_minute": 30}
    reply = await api.post(f"{prefix}/keys", body)
    assert (reply.status, reply.json.keys()) == (201, FIELDS | {"key"})
    assert reply.headers["Location"] == f"{prefix}/keys/{reply.json['id']}"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.json["key"].startswith(reply.json["prefix"])
    shown = {name: value for name, value in reply.json.items() if name != "key"}
    assert shown | body == shown | {"expires_in_s": 3600}
    program = with_key(api, reply)
    assert (await program.api.create("hello")).json["status"] == "completed"
    assert [row["input_data"] for row in (await program.api.get("/api/requests")).json] == [{"prompt": "hello"}]
    listed = (await api.get(f"{prefix}/keys")).json
    assert [row | {"last_used_at": None} for row in listed] == [shown]
    assert (await api.get(reply.headers["Location"])).json == listed[0]
    gone = await api.send("DELETE", reply.headers["Location"])
    assert (gone.status, gone.body) == (204, b"")
    assert_unauthenticated(await program.api.get("/api/requests"), blames_token=True)
    assert_problem(await api.get(reply.headers["Location"]), 404, "NOT_FOUND")
    assert_problem(await api.send("DELETE", reply.headers["Location"]), 404, "NOT_FOUND")
    assert (await api.get(f"{prefix}/keys")).json == []


async def test_a_key_creates_and_reads_unless_its_scopes_are_named(api: Api) -> None:
    reply = await api.post("/api/keys", {"name": "plain"})
    assert (reply.json["scopes"], reply.json["expires_at"]) == (["create", "read"], None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": 1}, "name"),
        ({"name": "nul\0"}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["write"]}, "scopes.0"),
        ({"name": "x", "expires_in_s": 0}, "expires_in_s"),
        ({"name": "x", "expires_in_s": 1.5}, "expires_in_s"),
        ({"name": "x", "expires_in_s": 10**12}, "expires_in_s"),
        ({"name": "x", "requests_per_minute": 0}, "requests_per_minute"),
        ({"name": "x", "key": "ask_mine"}, "key"),
    ],
)
async def test_a_wrong_field_is_named(api: Api, body: dict[str, Any], field: str) -> None:
    assert_problem(await api.post("/api/keys", body), 422, "VALIDATION_ERROR", field)


async def test_keys_of_others_do_not_exist(api: Api) -> None:
    program = await make_key(api)
    stranger = await api.sign_up()
    assert (await stranger.get("/api/keys")).json == []
    for path in (f"/api/keys/{program.id}", f"/api/keys/{uuid4()}", "/api/keys/none"):
        assert_problem(await stranger.get(path), 404, "NOT_FOUND")
        assert_problem(await stranger.send("DELETE", path), 404, "NOT_FOUND")
    assert (await program.api.get("/api/requests")).status == 200


async def test_a_user_has_a_hundred_keys_and_those_that_expired_do_not_count(api: Api) -> None:
    await make_key(api, expires_in_s=1)
    await asyncio.gather(*(make_key(api) for _ in range(MAX_KEYS - 1)))

    async def is_expired() -> bool:
        return len((await api.get("/api/keys")).json) == MAX_KEYS - 1

    await until(is_expired)
    replies = await asyncio.gather(*(api.post("/api/keys", {"name": "more"}) for _ in range(4)))
    assert sorted(reply.status for reply in replies) == [201, 409, 409, 409]
    refused = next(reply for reply in replies if reply.status == 409)
    assert_problem(refused, 409, "CONFLICT")
    assert "100 API keys" in refused.json["detail"]


async def test_only_the_hash_of_a_key_is_stored(api: Api, database: str) -> None:
    program = await make_key(api)
    async with connected(database) as connection:
        rows = await connection.fetch("SELECT to_jsonb(key)::text AS row FROM public.api_keys AS key")
    assert len(rows) == 1
    assert program.key[10:] not in rows[0]["row"]


# --- where it is accepted ---


async def send_bare(api: Api, path: str, headers: dict[str, str] | list[tuple[str, str]]) -> Reply:
    return await Api(api.client, api.app).get(path, headers=dict(headers))


@pytest.mark.parametrize("path", ["/api/requests", "/requests", "/v1/models", "/api/models"])
async def test_a_key_is_accepted_in_either_header(api: Api, path: str) -> None:
    key = (await make_key(api)).key
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer {key}"},
        {"X-Api-Key": key},
        {"X-Api-Key": key, "Authorization": "Bearer nonsense"},
        {"X-Api-Key": "of a proxy", "Authorization": f"Bearer {key}"},
    ):
        assert (await send_bare(api, path, headers)).status == 200, headers


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1],
        lambda key: key + "a",
        lambda key: key[:4] + key[4:].swapcase(),
        lambda _: mint_key(),
        lambda _: "ask_",
    ],
)
@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
async def test_another_key_is_401(api: Api, header: str, change: Callable[[str], str]) -> None:
    key = change((await make_key(api)).key)
    headers = {header: key if header == "X-Api-Key" else f"Bearer {key}"}
    assert_unauthenticated(await send_bare(api, "/api/requests", headers), blames_token=True)
    refused = await send_bare(api, "/v1/models", headers)
    assert (refused.status, refused.json["error"]["code"]) == (401, "invalid_api_key")


async def test_files_go_both_ways_with_a_key(api: Api) -> None:
    program = await make_key(api)
    uploaded = await program.api.send("POST", "/api/files", data=png(), headers={"Content-Type": "image/png"})
    assert uploaded.status == 201
    assert (await program.api.get(f"/api/files/{uploaded.json['id']}")).body == png()
    made = await program.api.post("/api/requests", {"model_type": "text-to-image", "input_data": {"prompt": "a hill"}})
    assert (await program.api.get(made.json["output_data"]["files"][0]["url"])).status == 200


async def test_streams_and_feeds_open_with_a_key(api: Api) -> None:
    program = await make_key(api)
    async with events_of(program.api, "/api/requests/events") as feed:
        await feed.until("snapshot")
        async with created(program.api) as source:
            assert (await source.all())[-1].name == "completed"
        await feed.until("status")


async def test_the_openai_client_works_with_a_key(api: Api) -> None:
    program = await make_key(api)
    url = str(api.client.make_url("/v1"))
    async with AsyncOpenAI(base_url=url, api_key=program.key, max_retries=0) as client:
        answer = await client.chat.completions.create(model="default", messages=[{"role": "user", "content": "hello"}])
        assert "hello" in (answer.choices[0].message.content or "")
        stream = await client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        assert "hello" in "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert (await client.embeddings.create(model="default", input="hello")).data
        assert [model.id async for model in client.models.list()]
    reader = await make_key(api, "read")
    async with AsyncOpenAI(base_url=url, api_key=reader.key, max_retries=0) as client:
        with pytest.raises(openai.PermissionDeniedError, match="does not have the scope 'create'"):
            await client.embeddings.create(model="default", input="hello")


# --- scopes ---


def operations() -> Iterator[tuple[str, str, Scope | None]]:
    """Every operation that asks who calls: its method, its path, and the scope that the document names."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            security = operation.get("security", DOCUMENT["security"])
            if not security:
                continue
            named = [scheme["api_key"] for scheme in security if "api_key" in scheme]
            assert len(named) <= 1
            assert [scheme["api_key_header"] for scheme in security if "api_key_header" in scheme] == named
            yield method.upper(), path, Scope(named[0][0]) if named else None


def test_the_table_knows_every_operation() -> None:
    table = {(method, path): scope for method, path, scope in operations()}
    assert {path for (_, path), scope in table.items() if scope is None} == {
        "/api/auth/signout",
        "/api/auth/user",
        "/auth/v1/user",
        "/auth/v1/logout",
    }
    assert {path for (_, path), scope in table.items() if scope is Scope.KEYS} == {"/api/keys", "/api/keys/{id}"}
    assert table["POST", "/v1/chat/completions"] is Scope.CREATE
    assert table["GET", "/api/requests/{id}/events"] is Scope.READ
    assert len(table) > 20


async def status_of(api: Api, method: str, path: str) -> tuple[int, Any]:
    """The status of a call of an operation without a body; and of an error what it says. A stream is left at once."""
    path = path.replace("{id}", str(UUID(int=1))).replace("{number}", "0")
    headers = {"Authorization": f"Bearer {api.token}"}
    async with api.client.request(method, path, headers=headers) as response:
        is_stream = response.content_type == "text/event-stream"
        said = None if is_stream or response.status < 400 else await response.json()
        if is_stream:
            response.close()
    return response.status, said


async def test_every_operation_takes_its_scope_and_no_other(api: Api) -> None:
    programs = {scope: (await make_key(api, scope)).api for scope in Scope}
    whole = (await make_key(api, *Scope)).api
    for method, path, needed in operations():
        for scope, program in programs.items():
            status, said = await status_of(program, method, path)
            if scope is needed:
                assert status not in {401, 403, 405, 500}, (method, path, scope, said)
                continue
            assert status == 403, (method, path, scope, said)
            text = "API key cannot do this" if needed is None else f"does not have the scope '{needed}'"
            if path.startswith("/v1/"):
                assert text in said["error"]["message"]
                assert said["error"]["type"] == "permission_error"
            elif path.startswith("/auth/v1/"):
                assert text in str(said)
            else:
                assert text in said["detail"]
                assert said["code"] == "AUTH_ERROR"
        status, said = await status_of(whole, method, path)
        assert (status == 403) is (needed is None), (method, path, said)
        if needed is not None:
            assert (await status_of(api, method, path))[0] not in {401, 403}, "a user has all scopes"


async def test_a_key_gives_no_more_than_it_has(api: Api) -> None:
    maker = (await make_key(api, "keys", "read", expires_in_s=100)).api
    for scopes in (["create"], ["read", "usage"], None):
        body = {"name": "more", "expires_in_s": 10} | ({} if scopes is None else {"scopes": scopes})
        reply = await maker.post("/api/keys", body)
        assert_problem(reply, 403, "AUTH_ERROR")
        assert "does not have the scope" in reply.json["detail"]
    for lifetime in ({}, {"expires_in_s": 1000}):
        reply = await maker.post("/api/keys", {"name": "longer", "scopes": ["read"], **lifetime})
        assert_problem(reply, 403, "AUTH_ERROR")
        assert "cannot last longer" in reply.json["detail"]
    less = await make_key(maker, "read", expires_in_s=10)
    assert (await less.api.get("/api/requests")).status == 200
    assert (await less.api.post("/api/keys", {"name": "none", "scopes": ["read"]})).status == 403


# --- its end ---


async def test_a_key_ends_when_it_expires(api: Api) -> None:
    program = await make_key(api, expires_in_s=1)
    began = time.monotonic()
    async with events_of(program.api, "/api/requests/events") as feed:
        await feed.until("snapshot")
        assert await feed.all(timeout_s=ELSEWHERE_S) == []
    assert_unauthenticated(await program.api.get("/api/requests"), blames_token=True)
    assert time.monotonic() - began >= 1


async def test_a_key_ends_with_its_account(api: Api) -> None:
    program = await make_key(api)
    assert (await program.api.get("/api/requests")).status == 200
    assert (await api.send("DELETE", "/api/auth/user")).status == 204
    assert_unauthenticated(await program.api.get("/api/requests"), blames_token=True)


async def test_a_key_ends_with_a_new_password_and_not_with_other_changes(api: Api) -> None:
    program = await make_key(api)
    assert (await api.send("PUT", "/auth/v1/user", json={"data": {"colour": "blue"}})).status == 200
    assert (await program.api.get("/api/requests")).status == 200
    assert (await api.send("PUT", "/auth/v1/user", json={"password": "another horse"})).status == 200
    assert_unauthenticated(await program.api.get("/api/requests"), blames_token=True)
    assert (await api.get("/api/keys")).json == []


async def test_a_key_ends_with_a_password_that_the_operator_sets(api: Api, database: str) -> None:
    program = await make_key(await api.sign_up("bob@example.com"))
    other = await make_key(api)
    assert (await program.api.get("/api/requests")).status == 200
    async with connected(database) as connection:
        await connection.fetch(statements_by_name()["set_password"], "bob@example.com", "a hash")

    async def is_refused() -> bool:
        return (await program.api.get("/api/requests")).status == 401

    await until(is_refused, within_s=ELSEWHERE_S)
    assert (await other.api.get("/api/requests")).status == 200


async def test_a_deleted_account_makes_no_key(api: Api) -> None:
    assert (await api.send("DELETE", "/api/auth/user")).status == 204
    assert_unauthenticated(await api.post("/api/keys", {"name": "late"}), blames_token=True)


async def test_a_banned_account_cannot_use_its_keys(api: Api, database: str) -> None:
    program = await make_key(api)
    assert (await program.api.get("/api/requests")).status == 200
    async with connected(database) as connection:
        await connection.execute("UPDATE auth.users SET banned_until = 'infinity' WHERE id = $1", api.user_id)

    async def is_refused() -> bool:
        return (await program.api.get("/api/requests")).status == 401

    await until(is_refused, within_s=ELSEWHERE_S)


@pytest.fixture(params=["with LISTEN", "without LISTEN"])
async def two(
    request: pytest.FixtureRequest, start: Start, database: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Api, Api]:
    """A user at one instance, and another instance; they hear each other, or no instance can."""
    if request.param == "without LISTEN":
        monkeypatch.setattr(application, "listening_database", lambda *_: None)
        here, there = await start(), await start()
    else:
        here, there = await start(listen_database_url=database), await start(listen_database_url=database)
        await asyncio.gather(*(hear_each_other(api) for api in (here, there)))
    return await here.sign_up(), there


async def test_a_revoked_key_stops_here_at_once_and_elsewhere_in_time(two: tuple[Api, Api]) -> None:
    user, there = two
    program = await make_key(user)
    elsewhere = at(there, program)
    async with events_of(elsewhere, "/api/requests/events") as feed, created(elsewhere, model=LONG) as stream:
        await feed.until("snapshot")
        await stream.until("delta")
        assert (await program.api.get("/api/requests")).status == 200
        assert (await user.send("DELETE", f"/api/keys/{program.id}")).status == 204
        revoked_at = time.monotonic()
        assert (await program.api.get("/api/requests")).status == 401

        async def is_refused() -> bool:
            return (await elsewhere.get("/api/models")).status == 401

        await until(is_refused, within_s=ELSEWHERE_S)
        await feed.all(timeout_s=ELSEWHERE_S)
        heard = await stream.all(timeout_s=ELSEWHERE_S)
        assert time.monotonic() - revoked_at < ELSEWHERE_S
    assert {told.name for told in heard} <= {"delta"}
    assert stream.retries == feed.retries == ["1000"]


@pytest.mark.parametrize("path", ["/api/requests", "/v1/chat/completions"])
async def test_a_stream_ends_with_its_key_and_its_request_goes_on(api: Api, path: str) -> None:
    program = await make_key(api)
    async with stream_of(program, path) as lines:
        first = await anext(lines)
        [request_id] = [row["id"] for row in (await api.get("/api/requests")).json]
        assert (await api.send("DELETE", f"/api/keys/{program.id}")).status == 204
        rest = [line async for line in lines]
    assert first
    if path.startswith("/v1"):
        assert "The API key was revoked or has expired" in rest[-1]
        assert "invalid_api_key" in rest[-1]
    else:
        assert rest[-1] == "retry: 1000"
    final = await api.get(f"/api/requests/{request_id}?wait=30")
    assert final.json["status"] == "completed"


@asynccontextmanager
async def stream_of(program: Program, path: str) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a stream, from its first piece of text on."""
    body: dict[str, Any] = {"model": LONG, "messages": [{"role": "user", "content": "hello"}], "stream": True}
    if path == "/api/requests":
        body = {"model": LONG, "model_type": "text2text", "input_data": {"prompt": "hello"}}
    headers = {"Authorization": f"Bearer {program.key}", "Accept": "text/event-stream"}
    async with program.api.client.post(path, json=body, headers=headers) as response:
        assert response.status == 200, await response.read()

        async def lines() -> AsyncIterator[str]:
            async with asyncio.timeout(10):
                async for raw in response.content:
                    if line := raw.decode().strip():
                        yield line

        yield lines()


# --- what it costs, and what stays of it ---


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements that readers and actors send."""
    sent: list[str] = []
    for kind in (PooledQueries, DedicatedConnection):
        fetch = kind.fetch

        async def counted(self: Any, query: str, *args: Any, fetch: Callable[..., Awaitable[Any]] = fetch) -> Any:
            sent.append(query)
            return await fetch(self, query, *args)

        monkeypatch.setattr(kind, "fetch", counted)
    return sent


async def test_a_create_with_a_known_key_sends_no_statement_more_than_with_a_token(
    api: Api, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_cache, "REFRESH_INTERVAL_S", 3600.0)
    monkeypatch.setattr(key_cache, "MAX_AGE_S", 3600.0)
    program = await make_key(api)
    await program.api.create()

    async def sent_by(caller: Api) -> list[str]:
        statements.clear()
        for _ in range(20):
            assert (await caller.create()).json["status"] == "completed"
        return sorted(name for name in statements if name in {"accept_requests", "find_api_keys", "record_key_uses"})

    assert await sent_by(program.api) == await sent_by(api) == ["accept_requests"] * 20


async def test_a_key_in_steady_use_is_looked_up_once(api: Api, statements: list[str]) -> None:
    """All later statements are those of the background, one every two seconds."""
    program = await make_key(api)
    for _ in range(200):
        assert (await program.api.get("/api/requests?limit=1")).status == 200
    assert statements.count("find_api_keys") <= 4


async def test_a_wrong_checksum_sends_no_statement(api: Api, statements: list[str]) -> None:
    wrong = Api(api.client, api.app, "ask_" + "a" * 49)
    statements.clear()
    for _ in range(20):
        assert (await wrong.get("/api/requests")).status == 401
    assert "find_api_keys" not in statements


async def test_guesses_of_one_address_are_limited_and_known_keys_go_on(start: Start) -> None:
    api = await (await start(auth_rate_limit_per_minute=10)).sign_up()
    program = await make_key(api)
    assert (await program.api.get("/api/requests")).status == 200
    replies = [await Api(api.client, api.app, mint_key()).get("/api/requests") for _ in range(32)]
    assert [reply.status for reply in replies[:30]] == [401] * 30
    assert_problem(replies[-1], 429, "RATE_LIMITED")
    assert int(replies[-1].headers["Retry-After"]) >= 1
    assert (await program.api.get("/api/requests")).status == 200


async def test_the_limit_of_a_key_is_its_own_and_of_creates_and_uploads(api: Api) -> None:
    limited, free = await make_key(api, requests_per_minute=2), await make_key(api)
    first = await limited.api.create()
    assert first.headers["RateLimit-Policy"] == '"key";q=2;w=60'
    uploaded = await limited.api.send("POST", "/api/files", data=png(), headers={"Content-Type": "image/png"})
    assert uploaded.status == 201
    for path in ("/api/requests", "/v1/chat/completions"):
        reply = await limited.api.post(path, {"model_type": "text2text", "input_data": {"prompt": "more"}})
        assert (reply.status, reply.headers["RateLimit-Policy"]) == (429, '"key";q=2;w=60')
        assert int(reply.headers["Retry-After"]) >= 1
    assert (await limited.api.get("/api/requests")).status == 200
    assert (await free.api.create()).status == 200


async def test_the_time_of_its_last_use_is_noted_and_shown(api: Api) -> None:
    program = await make_key(api)
    assert (await api.get(f"/api/keys/{program.id}")).json["last_used_at"] is None
    await program.api.get("/api/requests")

    async def used() -> Any:
        return (await api.get(f"/api/keys/{program.id}")).json["last_used_at"]

    assert await until(used) > (await api.get(f"/api/keys/{program.id}")).json["created_at"]


async def test_the_log_names_the_key_by_its_id_and_never_shows_it(api: Api) -> None:
    with log_lines() as log:
        program = await make_key(api)
        await program.api.get("/api/requests")
        await program.api.get("/api/auth/user")
        assert (await api.send("DELETE", f"/api/keys/{program.id}")).status == 204
    lines = [line for line in log.lines if line["event"] == "http"]
    assert [str(line.get("key_id")) for line in lines] == ["None", program.id, program.id, "None"]
    assert {str(line["user"]) for line in lines} == {api.user_id}
    assert {line["event"]: line["key_id"] for line in log.lines if line["event"].startswith("key_")} == {
        "key_created": program.id,
        "key_revoked": program.id,
    }
    assert program.key[10:] not in str(log.lines)


async def test_a_key_is_not_refused_while_the_database_is_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """503, as for everything else then: a 401 would make a program give up its key."""
    monkeypatch.setattr(key_cache, "LOOKUP_TIMEOUT_S", 0.05)
    program = await make_key(api)

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(api.app[keys.KEY_CACHE]._connection, "fetch", never)
    reply = await program.api.get("/api/requests")
    assert_problem(reply, 503, "SERVER_ERROR")
    assert "Retry-After" in reply.headers
