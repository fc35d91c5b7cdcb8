"""The whole server over HTTP, on a real Postgres, in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import uvloop
from aiohttp import ClientResponse, web
from aiohttp.test_utils import BaseTestServer, TestClient
from pytest_aiohttp import AiohttpClient

from server.app import create_app
from server.auth import passwords
from server.engine import Engine
from server.http import keys
from server.http.server import Runner
from server.settings import Settings
from server.storage import reader as storage_reader
from tests.fakes.event_source import EventSource
from tests.signals import until

PASSWORD = "correct horse battery"
_numbers = count(1)


class ServerUnderTest(BaseTestServer):
    """aiohttp's test server, with the runner that production uses."""

    def __init__(self, app: web.Application) -> None:
        super().__init__()
        self.app = app

    async def _make_runner(self, **_: Any) -> Runner:
        return Runner(self.app, shutdown_timeout_s=1)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, read to its end."""

    status: int
    headers: Any
    body: bytes
    json: Any = field(default=None)


@dataclass(slots=True)
class Api:
    """A client of a running server; `user` methods send a token."""

    client: TestClient[Any, Any]
    app: web.Application
    token: str | None = None
    user_id: str | None = None

    async def send(self, method: str, path: str, **options: Any) -> Reply:
        headers = dict(options.pop("headers", None) or {})
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        async with self.client.request(method, path, headers=headers, **options) as response:
            return await _read(response)

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.send("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Reply:
        return await self.send("POST", path, **(options if body is None else {"json": body, **options}))

    async def create(self, prompt: str = "hello", /, *, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
        """Create a model request as the existing client does."""
        body = {"model_type": "text2text", "input_data": {"prompt": prompt}, **fields}
        return await self.post("/api/requests", body, headers=headers)

    async def create_async(self, prompt: str = "hello", /, **fields: Any) -> Reply:
        return await self.create(prompt, headers={"Prefer": "respond-async"}, **fields)

    async def sign_up(self, email: str | None = None) -> "Api":
        """Another client of the same server, signed in as a new user."""
        address = email or f"user{next(_numbers)}@example.com"
        reply = await Api(self.client, self.app).post("/api/auth/signup", {"email": address, "password": PASSWORD})
        assert reply.status == 201, reply.body
        return Api(self.client, self.app, reply.json["token"], reply.json["user"]["id"])


Start = Callable[..., Awaitable[Api]]


async def _read(response: ClientResponse) -> Reply:
    body = await response.read()
    is_json = response.content_type == "application/json" and body
    return Reply(response.status, response.headers, body, await response.json() if is_json else None)


def settings_for(database: str, **overrides: Any) -> Settings:
    """Settings as from an environment in which nothing else is set. Limits are off unless a test asks for them."""
    values: dict[str, Any] = {
        "database_url": database,
        "inference_backend": "offline",
        "rate_limit_per_minute": 0,
        "auth_rate_limit_per_minute": 0,
        "sign_ups": None if "supabase_url" in overrides else "open",
    }
    return Settings.load(_env_file=None, **(values | overrides))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash at its full cost takes a fifth of a test. Its cost has tests of its own, as have whole processes."""
    monkeypatch.setattr(passwords, "MEMORY_KIB", 64)
    monkeypatch.setattr(passwords, "TIME_COST", 1)


@pytest.fixture(autouse=True)
def _patient_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is no outage. Those of the database are tested on real processes."""
    monkeypatch.setattr(storage_reader, "ACQUIRE_TIMEOUT_S", 20.0)


async def _first_look(engine: Engine) -> None:
    """Until the sweeper has seen that nobody waits: before, the first create lines up instead of starting at once."""
    await until(lambda: engine.backlog.is_empty and engine.slots.free)


@pytest.fixture
def _project_outlives_servers(request: pytest.FixtureRequest) -> None:
    """A test names its project after `start`, and what comes last goes first.

    Dropped under a server that runs on this thread's event loop, a database waits for ever for a connection that the
    server has just begun to open.
    """
    if "project" in request.fixturenames:
        request.getfixturevalue("project")


@pytest.fixture
async def start(
    request: pytest.FixtureRequest,
    database: str,
    _project_outlives_servers: None,
    aiohttp_client: AiohttpClient,
    through_pooler: Callable[[str], str],
) -> Start:
    """Start a server with some settings; several may run on the same database."""
    pooler = request.config.getoption("--pooler")

    async def start(**overrides: Any) -> Api:
        url = through_pooler(overrides.pop("database_url", database))
        app = create_app(settings_for(url, database_pooler=pooler, **overrides), database_url=url)
        client: TestClient[Any, Any] = await aiohttp_client(ServerUnderTest(app))
        await app[keys.LIFECYCLE].wait_ready()
        await _first_look(app[keys.ENGINE])
        return Api(client, app)

    return start


@pytest.fixture
async def api(start: Start) -> Api:
    """A server with the offline double, and a signed-in user of it."""
    return await (await start()).sign_up()


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What is done to connections themselves is seen on both loops: their transports have no class in common."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    names = ("test_one_connection_too_many", "test_h10_", "test_h19_", "test_who_leaves_")
    if item.path.stem == "test_large_answers" or item.name.startswith(names):
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@asynccontextmanager
async def events_of(api: Api, path: str, **options: Any) -> AsyncIterator[EventSource]:
    """An open stream; leaving the block closes the connection, as a client that goes away does."""
    headers = {"Authorization": f"Bearer {api.token}", **(options.pop("headers", None) or {})}
    async with api.client.request(options.pop("method", "GET"), path, headers=headers, **options) as response:
        assert response.status == 200, await response.read()
        assert response.content_type == "text/event-stream"
        try:
            yield EventSource(response)
        finally:
            response.close()


@asynccontextmanager
async def created(api: Api, prompt: str = "hello", /, **fields: Any) -> AsyncIterator[EventSource]:
    """The stream of a request that is created in the same call."""
    body = {"model_type": "text2text", "input_data": {"prompt": prompt}, **fields}
    accept = {"Accept": "text/event-stream"}
    async with events_of(api, "/api/requests", method="POST", json=body, headers=accept) as source:
        yield source
