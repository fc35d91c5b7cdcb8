"""The provider is away for a minute while requests go on being accepted: none fails, and it is not asked in vain."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.faults.audit import audit, embedded_url, settle
from tests.faults.clients import Clients
from tests.faults.processes import serving
from tests.faults.upstream import CountingUpstream

ACCEPTED = 1000
LIMITS = {"MAX_BACKLOG_PER_USER": "100000"}
PER_CALL, PER_SECOND, SAVED = 0.1, 1.0, 20.0
"""The retry budget: a tenth of a retry for each call, one each second, and what is saved up at most."""


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("is_listening", [True, False], ids=["answers 503", "refuses connections"])
async def test_an_outage_fails_nothing_and_is_not_made_worse(
    tmp_path: Path, *, is_listening: bool, is_soak: bool
) -> None:
    outage_s = 60.0 if is_soak else 10.0
    async with (
        CountingUpstream() as upstream,
        serving(tmp_path / "data", HF_BASE_URL=upstream.url, **LIMITS) as server,
    ):
        clients = Clients(server)
        began = time.monotonic()
        if is_listening:
            upstream.is_out_of_order = True
        else:
            await upstream.go_down()
        for _ in range(20):
            await clients.send(ACCEPTED // 20)
            await asyncio.sleep(outage_s / 25)
        await asyncio.sleep(max(0.0, began + outage_s - time.monotonic()))
        assert server.call("GET", "/health")[1]["upstream"]["ok"] is False
        in_vain = len(upstream.called_at)
        upstream.is_out_of_order = False
        if not is_listening:
            await upstream.come_up()
        back = time.monotonic()
        await settle(embedded_url(server), timeout_s=120)
        result = await audit(embedded_url(server), clients, upstream)
        log = server.log.read_text()
        assert server.call("GET", "/health")[1]["upstream"]["ok"] is True
    budget = ACCEPTED * PER_CALL + outage_s * PER_SECOND + SAVED
    print(
        f"{in_vain} calls in {outage_s:.0f} s of outage (budget {budget:.0f}), {log.count('upstream_retry')} retries,"
    )
    print(f"all complete {time.monotonic() - back:.1f} s after its end; {dict(result.statuses)}")
    assert len(clients.acknowledged) == ACCEPTED
    assert set(result.statuses) == {"completed"}
    assert in_vain <= budget
    assert log.count('"event":"request_released"') <= budget
    assert sum(upstream.calls.values()) - in_vain == ACCEPTED
