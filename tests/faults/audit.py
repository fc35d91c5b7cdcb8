"""What the database says in the end, held against what the clients were told and what upstream was asked."""

import asyncio
import json
from collections import Counter, defaultdict
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
_SPENT = """
SELECT
    user_id, (completed_at AT TIME ZONE 'UTC')::date AS day, coalesce(model, '') AS model, status,
    token_used, token_count, usage::text, output_data IS NOT NULL AS has_answer, cost_usd
FROM public.model_requests
WHERE status IN ('completed', 'failed', 'cancelled')
"""
_TOTALS = """
SELECT
    user_id, day, model, completed, failed, cancelled, token_used, token_count, input_tokens, cached_tokens,
    reasoning_tokens, unmetered, unpriced, cost_usd
FROM public.usage_daily
"""
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
    await audit_usage(url)
    return Audit(by_id)


async def audit_usage(url: str) -> "Counter[str]":
    """The totals of usage are the sums of the history, to the token and to the last digit. Returns the sum of all."""
    sums: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for row in await _fetch(url, _SPENT):
        usage = json.loads(row["usage"] or "{}")
        sums[row["user_id"], row["day"], row["model"]] += Counter(
            {
                row["status"]: 1,
                "token_used": row["token_used"] or 0,
                "token_count": row["token_count"] or 0,
                "input_tokens": usage.get("prompt_tokens", 0),
                "cached_tokens": usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
                "reasoning_tokens": usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0),
                "unmetered": row["has_answer"] and not usage,
                "unpriced": row["has_answer"] and row["cost_usd"] is None,
                "cost_usd": row["cost_usd"] or 0,
            }
        )
    totals = {
        (row["user_id"], row["day"], row["model"]): +Counter(
            {name: value or 0 for name, value in list(row.items())[3:]}
        )
        for row in await _fetch(url, _TOTALS)
    }
    assert totals == sums, "usage that is not the sum of the history"
    return sum(totals.values(), Counter())


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
