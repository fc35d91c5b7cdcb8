"""SIGTERM with two hundred requests running: everyone who waits gets an answer, and nothing is lost either way."""

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.audit import audit, read_rows, settle
from tests.faults.clients import Clients
from tests.faults.processes import serving
from tests.faults.upstream import CountingUpstream

WAITING, POLLING, ASYNC = 100, 50, 50
IN_FLIGHT = WAITING + POLLING + ASYNC
GENERATION_S = 4.0


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("drain_s", ["30", "0.5"], ids=["the drain suffices", "the drain is too short"])
async def test_a_stop_answers_all_and_loses_nothing(tmp_path: Path, database: str, drain_s: str) -> None:
    is_enough = float(drain_s) > GENERATION_S
    async with CountingUpstream(delay_s=lambda _prompt: GENERATION_S) as upstream:
        settings = {"DATABASE_URL": database, "HF_BASE_URL": upstream.url, "CONCURRENCY": str(2 * IN_FLIGHT)}
        async with serving(tmp_path / "data", DRAIN_S=drain_s, **settings) as server:
            clients = Clients(server)
            answers = asyncio.gather(
                clients.send(WAITING, waits=True, at_once=WAITING),
                clients.send(POLLING, polls=True, at_once=POLLING),
                clients.send(ASYNC, at_once=ASYNC),
            )
            await upstream.wait_called(IN_FLIGHT)
            server.signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.wait) == 0
            waiting, polling, _ = await answers
            rows = Counter(row["status"] for row in await read_rows(database))
            print(f"at the end {dict(rows)}; answers {dict(clients.statuses)}")
            assert rows == ({"completed": IN_FLIGHT} if is_enough else {"pending": IN_FLIGHT})
            assert {told.status for told in waiting} == {200 if is_enough else 202}
            assert {told.item["status"] for told in waiting + polling} <= (
                {"completed"} if is_enough else {"pending", "processing"}
            )
            assert [told.polled for told in polling] == [200] * POLLING
            if not is_enough:
                await asyncio.to_thread(server.start)
            await settle(database, timeout_s=60)
            result = await audit(database, clients, upstream)
    assert set(result.statuses) == {"completed"}
    assert {row["attempt"] for row in result.rows.values()} == {1}
