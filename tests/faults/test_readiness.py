"""Ready means that a create succeeds: databases that have no connection left, or take no writes."""

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.faults.processes import ServerProcess, serving, until
from tests.pgbouncer import running_pgbouncer
from tests.postgres import Cluster, run

PLACES = 12
_NOTICED_WITHIN_S = 5.0


@pytest.fixture
def limited_role(cluster_18: Cluster) -> Iterator[str]:
    """A role that may have `PLACES` connections."""
    role = f"limited_{secrets.token_hex(4)}"
    cluster_18.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{cluster_18.password}' CONNECTION LIMIT {PLACES}")
    yield role
    cluster_18.execute(f"DROP ROLE {role}")


@pytest.fixture
def limited_database(cluster_18: Cluster, limited_role: str) -> Iterator[str]:
    with cluster_18.database(owner=limited_role) as url:
        yield url


@contextmanager
def _instance(folder: Path, url: str, **more: str) -> Iterator[ServerProcess]:
    """A server that may never become ready."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    settings = {"DATABASE_URL": url, "INFERENCE_BACKEND": "offline", "RATE_LIMIT_PER_MINUTE": "0"} | more
    server = ServerProcess(folder, settings, port=port)
    server.launch()
    try:
        yield server
    finally:
        assert server.stop() == 0


def _answers(server: ServerProcess) -> bool:
    try:
        return server.call("GET", "/health/live")[0] == 200
    except OSError:
        return False


def _is_ready(server: ServerProcess) -> bool:
    return _answers(server) and server.call("GET", "/health/ready")[0] == 200


def _has_decided(server: ServerProcess) -> bool:
    """Ready, or refused by the database more than once."""
    return _is_ready(server) or server.log.read_text().count("database_not_ready") > 1


def _outcome(server: ServerProcess) -> Any:
    """What a client gets of a create that waits."""
    status, body = server.create(prefer="wait=20")
    return status, body.get("status"), body.get("detail")


@pytest.mark.timeout(120)
def test_i1_of_three_instances_on_too_few_connections_those_that_are_ready_take_creates(
    tmp_path: Path, limited_database: str
) -> None:
    with ExitStack() as stack:
        servers: list[ServerProcess] = []
        for number in range(3):
            server = stack.enter_context(_instance(tmp_path / f"instance-{number}", limited_database))
            until(lambda server=server: _has_decided(server), timeout_s=30)
            if not servers:
                server.sign_up()
            server.token = (servers or [server])[0].token
            servers.append(server)
            _use_every_line(server)
        ready = [server for server in servers if _is_ready(server)]
        assert ready
        for server in ready:
            assert _outcome(server) == (200, "completed", None)
        for server in servers:
            if server not in ready:
                assert "CONNECTION LIMIT" in server.log.read_text()


def _use_every_line(server: ServerProcess) -> None:
    """Have a server that is ready open what it opens only when it is needed."""
    if _is_ready(server):
        server.create(prefer="wait=20")
        server.call("GET", "/api/requests")


@pytest.mark.timeout(120)
def test_i1_an_instance_without_a_place_is_not_ready_until_there_is_one(tmp_path: Path, limited_database: str) -> None:
    with ExitStack() as stack:
        places = stack.enter_context(_taken_places(limited_database, PLACES - 2))
        server = stack.enter_context(_instance(tmp_path / "data", limited_database))
        until(lambda: server.log.read_text().count("database_not_ready") > 1, timeout_s=30)
        status, health = server.call("GET", "/health")
        assert (status, health["checks"]["database"]) == (503, False)
        assert "CONNECTION LIMIT" in server.log.read_text()
        places.close()
        until(lambda: _is_ready(server), timeout_s=30)
        server.sign_up()
        assert _outcome(server) == (200, "completed", None)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_i1_a_session_pooler_without_a_place_for_a_fourth_instance(tmp_path: Path, database: str) -> None:
    with running_pgbouncer(database, "session", size=15) as pooler, ExitStack() as stack:
        url = pooler.through(database)
        servers = [stack.enter_context(_instance(tmp_path / f"{n}", url, DATABASE_POOLER="session")) for n in range(3)]
        for server in servers:
            until(lambda server=server: _is_ready(server), timeout_s=30)
        servers[0].sign_up()
        for server in servers:
            server.token = servers[0].token
            assert _outcome(server) == (200, "completed", None)
        with _taken_places(url, 15 - _places_taken(database)):
            fourth = stack.enter_context(_instance(tmp_path / "fourth", url, DATABASE_POOLER="session"))
            until(lambda: "database_not_ready" in fourth.log.read_text(), timeout_s=40)
            assert not _is_ready(fourth)
            assert "free connection" in fourth.log.read_text()
            for server in servers:
                assert _outcome(server) == (200, "completed", None)
        until(lambda: _is_ready(fourth), timeout_s=40)
        fourth.token = servers[0].token
        assert _outcome(fourth) == (200, "completed", None)


def _places_taken(database: str) -> int:
    async def count() -> int:
        connection = await asyncpg.connect(database)
        try:
            name = "datname = current_database() AND pid <> pg_backend_pid()"
            return int(await connection.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {name}"))  # noqa: S608
        finally:
            await connection.close()

    return run(count())


class _Places:
    """Connections that are held open, so that nobody else has them."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._url = url
        self._connections: list[asyncpg.Connection[Any]] = []

    def take(self, count: int) -> int:
        """Take so many, or as many as there are; how many there were."""
        taken = 0
        for _ in range(count):
            try:
                self._loop.run_until_complete(self._take())
            except asyncpg.TooManyConnectionsError:
                break
            taken += 1
        return taken

    async def _take(self) -> None:
        """A session pooler gives out a place with the first statement."""
        connection = await asyncpg.connect(self._url)
        self._connections.append(connection)
        await connection.fetch("SELECT 1")

    def close(self) -> None:
        for connection in self._connections:
            self._loop.run_until_complete(connection.close())
        self._connections.clear()


@contextmanager
def _taken_places(url: str, count: int) -> Iterator[_Places]:
    places = _Places(url)
    try:
        assert places.take(count) == count
        yield places
    finally:
        places.close()
        places._loop.close()


@pytest.mark.timeout(120)
def test_i1_a_connection_that_is_lost_and_cannot_be_opened_again_ends_readiness(
    tmp_path: Path, cluster_18: Cluster, limited_role: str, limited_database: str
) -> None:
    """Nobody creates anything meanwhile: the server notices by itself, and again when the database is back."""
    with _instance(tmp_path / "data", limited_database) as server:
        until(lambda: _is_ready(server), timeout_s=30)
        server.sign_up()
        end_all = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{limited_role}'"  # noqa: S608
        cluster_18.execute(f"ALTER ROLE {limited_role} CONNECTION LIMIT 0", end_all)
        until(lambda: not _is_ready(server), timeout_s=_NOTICED_WITHIN_S)
        assert server.call("GET", "/health")[1]["checks"]["database"] is False
        until(lambda: "CONNECTION LIMIT" in server.log.read_text())
        cluster_18.execute(f"ALTER ROLE {limited_role} CONNECTION LIMIT {PLACES}")
        until(lambda: _is_ready(server), timeout_s=_NOTICED_WITHIN_S)
        assert _outcome(server) == (200, "completed", None)


@pytest.mark.timeout(120)
async def test_i1_a_database_that_takes_no_writes_ends_readiness(
    tmp_path: Path, cluster_18: Cluster, database: str
) -> None:
    name = database.partition("?")[0].rpartition("/")[2]
    end_all = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608
    async with serving(tmp_path / "data", DATABASE_URL=database, INFERENCE_BACKEND="offline") as server:
        cluster_18.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on", end_all)
        await asyncio.to_thread(until, lambda: not _is_ready(server), timeout_s=_NOTICED_WITHIN_S)
        await server.wait_logged("accepts no writes")
        cluster_18.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await asyncio.to_thread(until, lambda: _is_ready(server), timeout_s=_NOTICED_WITHIN_S)
        assert await asyncio.to_thread(_outcome, server) == (200, "completed", None)
