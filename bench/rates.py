"""Measures the processor time of a check of a shared rate, without the statements of its loans.

python -m bench.rates
"""

import asyncio
import time
from typing import Any, cast
from uuid import uuid4

import uvloop

from server.limits.shared_rates import SharedRateLimiter
from server.model_request import UserId
from server.storage.reader import PooledQueries

CALLS = 200_000


class Bucket:
    """Lends all that is asked for, or nothing."""

    def __init__(self, *, is_empty: bool) -> None:
        self._is_empty = is_empty
        self.loans = 0

    async def fetch(self, _query: str, users: list[UserId], counts: list[int], _: float, limit: int) -> list[Any]:
        self.loans += 1
        return [
            {"user_id": user, "granted": 0 if self._is_empty else count, "missing": limit if self._is_empty else 0.0}
            for user, count in zip(users, counts, strict=True)
        ]


async def measure(per_minute: int, *, is_empty: bool) -> None:
    bucket = Bucket(is_empty=is_empty)
    reader = cast("PooledQueries", bucket)
    limiter = SharedRateLimiter("create", per_minute, reader=reader, instances=lambda: 3)
    user_id = UserId(uuid4())
    lending = asyncio.create_task(limiter.run())
    before = time.process_time()
    for _ in range(CALLS):
        await limiter.check(user_id)
    spent_us = (time.process_time() - before) / CALLS * 1e6
    lending.cancel()
    kind = "refused" if is_empty else "allowed"
    print(f"{kind}, limit {per_minute}: {spent_us:.1f} us a call, {bucket.loans / CALLS:.3f} loans a call")


async def main() -> None:
    for per_minute in (60, 600, 6000):
        await measure(per_minute, is_empty=False)
    await measure(60, is_empty=True)


if __name__ == "__main__":
    uvloop.run(main())
