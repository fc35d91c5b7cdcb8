"""A thousand creates that wait: their prompts are handed to the journal and held by nothing else."""

import asyncio
import gc
import tracemalloc

from tests.unit.requests.services import Desk

WAITERS = 1000
PROMPT_BYTES = 100_000


async def _create_and_wait(desk: Desk, number: int, is_waiting: asyncio.Event) -> None:
    prompt = f"{number:06}" + "x" * PROMPT_BYTES
    created = await desk.create({"model_type": "text2text", "input_data": {"prompt": prompt}})
    del prompt  # the caller's own; what the service holds is measured
    with created:
        created.subscription.seen = None  # its public object, which has a limit of its own
        desk.journal.accepted.clear()
        is_waiting.set()
        await created.subscription.wait(60)


async def test_a_thousand_waiting_creates_hold_no_prompt() -> None:
    desk = Desk()
    desk.backlog.is_empty = False
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tasks = []
        for number in range(WAITERS):
            is_waiting = asyncio.Event()
            tasks.append(asyncio.create_task(_create_and_wait(desk, number, is_waiting)))
            await is_waiting.wait()
        assert len(desk.subscriptions) == WAITERS
        gc.collect()
        held = (tracemalloc.get_traced_memory()[0] - before) / WAITERS
    finally:
        tracemalloc.stop()
    desk.subscriptions.close()
    await asyncio.gather(*tasks)
    assert held < PROMPT_BYTES / 10
