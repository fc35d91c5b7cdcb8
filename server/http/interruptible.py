"""A block of a handler that something else can end: a client that disconnects, a credential that is revoked."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Interruptible:
    """`stop` ends the block at whatever it waits for, as `asyncio.timeout` does, and without an exception."""

    def __init__(self) -> None:
        self._timeout = asyncio.timeout(None)

    @property
    def is_stopped(self) -> bool:
        """Whether the block was ended by `stop`. True after the block only."""
        return self._timeout.expired()

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the block has ended in the meantime
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            return True
        return False
