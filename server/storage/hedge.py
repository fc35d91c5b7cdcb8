"""Attempts to connect which overlap, so that one whose packets were lost does not hold up what would work by now."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

STAGGER_S = 1.0
"""More than a connection over a slow line with TLS takes, as a rule."""
MAX_AT_ONCE = 3

Attempt = Callable[[], "Awaitable[asyncpg.Connection[Any]]"]
_Task = asyncio.Task["asyncpg.Connection[Any]"]


async def connect_overlapping(attempt: Attempt, *, stagger_s: float = STAGGER_S) -> "asyncpg.Connection[Any]":
    """The connection, or the error, of whichever attempt ends first; the first one is given all the time it takes.

    A packet that is lost while a connection is opened is sent again after 1, 2 and 4 s, whenever the network is back.
    So a further attempt begins every `stagger_s`, in place of the oldest but the first when there are `MAX_AT_ONCE`.
    """
    attempts: list[_Task] = []
    try:
        while True:
            if len(attempts) == MAX_AT_ONCE:
                _drop(attempts.pop(1))
            attempts.append(asyncio.ensure_future(_await(attempt)))
            done, _ = await asyncio.wait(attempts, timeout=stagger_s, return_when=asyncio.FIRST_COMPLETED)
            if done:
                winner = min(done, key=lambda task: task.exception() is not None)
                attempts.remove(winner)
                return winner.result()
    finally:
        for task in attempts:
            _drop(task)


async def _await(attempt: Attempt) -> "asyncpg.Connection[Any]":
    return await attempt()


def _drop(task: _Task) -> None:
    """Close the connection of an attempt that lost, if it gets one."""
    task.cancel()
    task.add_done_callback(_terminate)


def _terminate(task: _Task) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()
