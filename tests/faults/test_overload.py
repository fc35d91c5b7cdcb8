"""Far more creates than a small server can take, in little memory: each is answered, and who was let in is served."""

import asyncio
import resource
from pathlib import Path

import pytest

from tests.faults.audit import audit, embedded_url, settle
from tests.faults.clients import Clients
from tests.faults.processes import serving
from tests.faults.upstream import CountingUpstream

MAX_BYTES = 512 * 1024 * 1024
TINY = {"CONCURRENCY": "2", "MAX_BACKLOG": "5"}
SMALL, LARGE = 180, 20
LARGE_PROMPT = "x" * 190_000


@pytest.mark.timeout(120)
async def test_a_burst_is_refused_with_a_time_to_return_or_served_to_its_end(tmp_path: Path) -> None:
    async with (
        CountingUpstream(delay_s=lambda _prompt: 0.2) as upstream,
        serving(tmp_path / "data", HF_BASE_URL=upstream.url, **TINY) as server,
    ):
        assert server.process is not None
        resource.prlimit(server.process.pid, resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
        clients = Clients(server)
        await clients.send(SMALL // 2)  # the ones let in are in the way of the next burst: nobody waits for their end
        await asyncio.gather(clients.send(SMALL // 2, waits=True), clients.send(LARGE, waits=True, prompt=LARGE_PROMPT))
        burst = clients.statuses
        refused = [told for told in clients.told if not told.is_acknowledged]
        await settle(embedded_url(server), timeout_s=60)
        [later] = await clients.send(1, waits=True)
        result = await audit(embedded_url(server), clients, upstream)
        assert server.is_running
    print(dict(burst), dict(result.statuses))
    assert set(burst) <= {200, 202, 429, 503}
    assert refused
    assert len(clients.told) == SMALL + LARGE + 1
    assert all(told.retry_after is not None and int(told.retry_after) >= 1 for told in refused)
    assert set(result.statuses) == {"completed"}
    assert later.status == 200
