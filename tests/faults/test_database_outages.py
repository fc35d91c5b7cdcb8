"""Postgres goes away under load, in each way in which it can, and comes back."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.fakes.tcp_proxy import Mode, TcpProxy
from tests.faults.audit import embedded_url
from tests.faults.outages import HEALTHY_WITHIN_S, endure
from tests.faults.postgres import FAST, IMMEDIATE, KILL, own_postgres
from tests.faults.processes import serving
from tests.faults.upstream import CountingUpstream

STATEMENT_TIMEOUT_S = 10.0
_DELAY_S = 0.2


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("sign", [FAST, IMMEDIATE, KILL])
@pytest.mark.parametrize("is_long", [False, True], ids=["restarted", "away"])
async def test_a_postgres_that_ends_and_comes_back(
    tmp_path: Path, sign: signal.Signals, *, is_long: bool, is_soak: bool, patience: float
) -> None:
    away_s = (20.0 if is_soak else 5.0) if is_long else 0.0
    async with own_postgres() as postgres, CountingUpstream(delay_s=lambda _: _DELAY_S) as upstream:

        async def outage() -> None:
            await postgres.stop(sign)
            await asyncio.sleep(away_s)
            await postgres.start()

        async with serving(tmp_path / "data", DATABASE_URL=postgres.url, HF_BASE_URL=upstream.url) as server:
            await endure(server, postgres.url, upstream, outage, healthy_within_s=HEALTHY_WITHIN_S * patience)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_an_embedded_postgres_that_is_killed_is_started_again(tmp_path: Path, patience: float) -> None:
    async with (
        CountingUpstream(delay_s=lambda _: _DELAY_S) as upstream,
        serving(tmp_path / "data", HF_BASE_URL=upstream.url) as server,
    ):
        pid_file = server.data_dir / "postgres" / "data" / "postmaster.pid"

        async def outage() -> None:
            os.kill(int(pid_file.read_text().split(maxsplit=1)[0]), signal.SIGKILL)
            await server.wait_logged('"event":"embedded_postgres_restarted"')

        await endure(server, embedded_url(server), upstream, outage, healthy_within_s=HEALTHY_WITHIN_S * patience)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", ["reset", "refuse", "stall", "forget", "void", "lose commits"])
async def test_a_line_to_postgres_that_fails(tmp_path: Path, fault: str, *, is_soak: bool, patience: float) -> None:
    lasts_s = 20.0 if is_soak else 5.0
    async with (
        own_postgres() as postgres,
        TcpProxy(postgres.socket) as proxy,
        CountingUpstream(delay_s=lambda _: _DELAY_S) as upstream,
    ):

        async def outage() -> None:
            match fault:
                case "reset":
                    for _ in range(int(lasts_s)):
                        proxy.reset()
                        await asyncio.sleep(0.5)
                case "forget":
                    proxy.forget()
                case "lose commits":
                    proxy.lose_commits = 40 if is_soak else 15
                    async with asyncio.timeout(60):
                        while proxy.lose_commits:  # noqa: ASYNC110 - it is the server that makes it end
                            await asyncio.sleep(0.05)
                case _:
                    proxy.set({"refuse": Mode.REFUSE, "stall": Mode.STALL, "void": Mode.VOID}[fault])
                    await asyncio.sleep(lasts_s)
                    proxy.set(Mode.PASS)

        url = f"postgresql://postgres:{postgres.password}@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
        # Who forgets a connection tells nobody: that is found out by waiting for an answer, in a long outage during it.
        is_found_out_late = fault == "forget" or (fault == "void" and lasts_s < STATEMENT_TIMEOUT_S)
        within_s = HEALTHY_WITHIN_S * patience + (STATEMENT_TIMEOUT_S if is_found_out_late else 0.0)
        async with serving(tmp_path / "data", DATABASE_URL=url, HF_BASE_URL=upstream.url) as server:
            await endure(server, postgres.url, upstream, outage, healthy_within_s=within_s)
