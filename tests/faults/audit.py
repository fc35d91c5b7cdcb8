"""What the database says in the end, held against what the clients were told and what upstream was asked."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import asyncpg

from server.model_request import Status
from tests.faults.clients import Clients, Told
from tests.faults.processes import ServerProcess
from tests.faults.upstream import CountingUpstream, reply_to

_ROWS = """
SELECT id::text, status, epoch, attempt, owner, error_msg, completed_at,
    input_data->>'prompt' AS prompt, output_data->>'output' AS output
FROM public.model_requests
"""
_LIVE = "SELECT count(*) FROM public.model_requests WHERE status IN ('pending', 'processing')"
_OUTCOMES = (
    "SELECT coalesce(sum(completed), 0) AS completed, coalesce(sum(failed), 0) AS failed FROM public.usage_daily"
)
_POLL_S = 0.1
_FINAL = {str(status) for status in Status if status.is_final}


def embedded_url(server: ServerProcess) -> str:
    """The embedded database of a server that runs, or that was killed and left its Postgres behind."""
    home = server.data_dir / "postgres"
    socket_dir = (home / "data" / "postmaster.pid").read_text().splitlines()[4]
    password = (home / "password").read_text().strip()
    return (
        f"postgresql://postgres:{quote(password, safe='')}@/ai_sdk_server?host={quote(socket_dir, safe='')}&port=5432"
    )


async def read_rows(url: str) -> list[Any]:
    return await _fetch(url, _ROWS)


async def settle(url: str, *, timeout_s: float) -> None:
    """Until every accepted request is final; nobody but the server does anything for it."""
    async with asyncio.timeout(timeout_s):
        while (await _fetch(url, _LIVE))[0]["count"]:  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(_POLL_S)


@dataclass(frozen=True, slots=True)
class Audit:
    """All rows in the end, by id."""

    rows: dict[str, Any]

    @property
    def statuses(self) -> Counter[str]:
        return Counter(row["status"] for row in self.rows.values())


async def audit(url: str, clients: Clients, upstream: CountingUpstream) -> Audit:
    """Every acknowledged request is there and ended once, with an answer that upstream gave; nothing else is there."""
    rows = await read_rows(url)
    by_id = {row["id"]: row for row in rows}
    sent = {told.prompt for told in clients.told}
    prompts = Counter(row["prompt"] for row in rows)
    assert {row["status"] for row in rows} <= _FINAL
    assert set(prompts) <= sent, "a row that nobody sent"
    assert max(prompts.values(), default=1) == 1, "a request that was sent once and accepted twice"
    for told in clients.acknowledged:
        _judge(told, by_id)
    for row in rows:
        if row["status"] == "completed":
            answers = {reply_to(row["prompt"], call) for call in range(1, upstream.calls[row["prompt"]] + 1)}
            assert row["output"] in answers, "an answer that upstream did not give"
    [outcomes] = await _fetch(url, _OUTCOMES)
    counted = Counter(row["status"] for row in rows)
    assert outcomes["completed"] == counted["completed"], "an outcome that was counted twice"
    assert outcomes["failed"] == counted["failed"], "an outcome that was counted twice"
    return Audit(by_id)


def _judge(told: Told, rows: dict[str, Any]) -> None:
    """What a client was told is what stands."""
    assert told.id in rows, f"lost: {json.dumps(told.item)}"
    row = rows[told.id]
    assert row["prompt"] == told.prompt
    if told.item["status"] in _FINAL:
        assert told.item["status"] == row["status"], "an outcome that changed"
        assert (told.item["output_data"] or {}).get("output") == row["output"], "an answer that changed"


async def _fetch(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return list(await connection.fetch(query))
    finally:
        connection.terminate()
