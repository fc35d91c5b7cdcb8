"""kill -9 at random instants, under load: what was acknowledged ends completed, once, and no client does anything."""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from server.actors.quarantine import MAX_ATTEMPTS
from tests.faults.audit import audit, embedded_url, read_rows, settle
from tests.faults.clients import Clients
from tests.faults.processes import ServerProcess, serving
from tests.faults.upstream import CountingUpstream

IN_FLIGHT = 200
RECOVERY_S = 5.0
LIMITS = {"MAX_BACKLOG_PER_USER": "100000", "MAX_BACKLOG": "100000"}
POISON = "poison"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_no_kill_loses_repeats_or_fails_what_was_accepted(
    tmp_path: Path, *, is_soak: bool, patience: float
) -> None:
    kills, caught_each = (50, 20) if is_soak else (8, 1)
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    caught: Counter[str] = Counter()
    counted: set[str] = set()
    recoveries = []
    async with (
        CountingUpstream(delay_s=_delay_s) as upstream,
        serving(tmp_path / "data", HF_BASE_URL=upstream.url, **LIMITS) as server,
    ):
        clients = Clients(server)
        async with clients.in_flight(IN_FLIGHT):
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.2, 2.0))
                server.kill()
                caught += await _count_caught(server, clients, upstream, counted)
                recoveries.append(await asyncio.to_thread(server.start))
            await asyncio.sleep(1)
        await settle(embedded_url(server), timeout_s=300)
        result = await audit(embedded_url(server), clients, upstream)
    print(f"seed {seed}, {kills} kills, caught {dict(+caught)}, recovery at most {max(recoveries):.2f} s")
    print(f"{len(clients.acknowledged)} acknowledged of {len(clients.told)} sent, {dict(result.statuses)}")
    print(f"attempts {dict(Counter(row['attempt'] for row in result.rows.values()))}")
    assert set(result.statuses) == {"completed"}
    assert min(caught["pending"], caught["processing"], caught["in a flush"]) >= caught_each
    assert max(recoveries) <= RECOVERY_S * patience


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_request_that_kills_the_server_fails_and_its_neighbours_complete(tmp_path: Path) -> None:
    deaths = 0

    def kill_if_poison(prompt: str) -> None:
        nonlocal deaths
        if prompt.startswith(POISON):
            deaths += 1
            server.kill()

    async with (
        CountingUpstream(delay_s=_delay_s, on_call=kill_if_poison) as upstream,
        serving(tmp_path / "data", HF_BASE_URL=upstream.url, **LIMITS) as server,
    ):
        clients = Clients(server)
        await clients.send(30, at_once=30)
        [poison] = await clients.send(1, prompt=POISON)
        while (rows := await read_rows(embedded_url(server))) and any(row["completed_at"] is None for row in rows):
            if not server.is_running:
                await asyncio.to_thread(server.start)
                await clients.send(5)
            await asyncio.sleep(0.1)
        result = await audit(embedded_url(server), clients, upstream)
    [failed] = [row for row in result.rows.values() if row["status"] != "completed"]
    print(f"{deaths} deaths; {failed['error_msg']} {dict(result.statuses)}")
    assert (failed["id"], failed["status"], failed["attempt"]) == (poison.id, "failed", MAX_ATTEMPTS)
    assert deaths == upstream.calls[poison.prompt] == MAX_ATTEMPTS


def _delay_s(prompt: str) -> float:
    """From 0.1 to 0.55 s."""
    return 0.1 + int(prompt.rsplit(maxsplit=1)[-1]) % 10 / 20


async def _count_caught(
    server: ServerProcess, clients: Clients, upstream: CountingUpstream, counted: set[str]
) -> Counter[str]:
    """How the requests stood when the server died; its Postgres outlived it and tells.

    In a flush: an accept that Postgres has and whose client, who was not going to wait, was not told of; or an outcome
    that upstream gave whole and Postgres does not have. `counted` are the prompts of those that were counted before.
    """
    await asyncio.sleep(0.05)  # what was on its way has arrived, or never will
    rows: list[Any] = await read_rows(embedded_url(server))
    untold = {told.prompt for told in clients.told if not (told.waits or told.is_acknowledged)} - counted
    counted |= untold
    caught: Counter[str] = Counter()
    for row in rows:
        prompt, status = row["prompt"], row["status"]
        caught[status] += status in {"pending", "processing"}
        is_answered = 0 < upstream.calls[prompt] == upstream.answered[prompt]
        caught["in a flush"] += prompt in untold or (status == "processing" and is_answered)
    return caught
