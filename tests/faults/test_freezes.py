"""A process that stands still for longer than its lease: what it was doing counts once, whoever did it meanwhile."""

import asyncio
import signal
from pathlib import Path

import pytest

from server.actors.heartbeat import LEASE_TTL_S
from tests.faults.audit import audit, read_rows, settle
from tests.faults.clients import Clients
from tests.faults.processes import serving
from tests.faults.upstream import CountingUpstream

COUNT = 40
FROZEN_S = 20.0
GENERATION_S = 2.0


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_frozen_instance_that_comes_back_changes_nothing(tmp_path: Path, database: str) -> None:
    async with CountingUpstream(delay_s=lambda _prompt: GENERATION_S) as upstream:
        settings = {"DATABASE_URL": database, "HF_BASE_URL": upstream.url}
        async with (
            serving(tmp_path / "one", **settings) as frozen,
            serving(tmp_path / "two", **settings) as other,
        ):
            await asyncio.sleep(LEASE_TTL_S + 1)  # before that nobody may declare others dead
            clients = Clients(frozen)
            await clients.send(COUNT)
            await upstream.wait_called(COUNT)
            frozen.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(FROZEN_S)
                await settle(database, timeout_s=30)
                before = {row["id"]: dict(row) for row in await read_rows(database)}
            finally:
                frozen.signal(signal.SIGCONT)
            await frozen.wait_logged('"event":"request_ended"', COUNT)
            result = await audit(database, clients, upstream)
            assert {request_id: dict(row) for request_id, row in result.rows.items()} == before
            assert frozen.is_running
            assert other.is_running
            fates = frozen.log.read_text()
    refused = fates.count('"fate":"finished_elsewhere"') + fates.count('"fate":"fenced"')
    print(f"{upstream.calls.total()} calls for {COUNT} requests; {refused} outcomes came too late")
    assert set(result.statuses) == {"completed"}
    assert upstream.calls.total() == 2 * COUNT
    assert refused == COUNT


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_a_frozen_instance_that_is_alone_goes_on_where_it_was(tmp_path: Path, database: str) -> None:
    async with CountingUpstream(delay_s=lambda _prompt: GENERATION_S) as upstream:
        settings = {"DATABASE_URL": database, "HF_BASE_URL": upstream.url}
        async with serving(tmp_path / "data", **settings) as server:
            clients = Clients(server)
            await clients.send(COUNT)
            await upstream.wait_called(COUNT)
            server.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(FROZEN_S)
            finally:
                server.signal(signal.SIGCONT)
            await settle(database, timeout_s=30)
            result = await audit(database, clients, upstream)
    assert set(result.statuses) == {"completed"}
    assert upstream.calls.total() == COUNT
