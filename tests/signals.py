"""Waiting for something to happen: by a line of the log, or by looking where nothing else tells."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeVar, overload

from structlog.testing import capture_logs

Found = TypeVar("Found")


@overload
async def until(look: Callable[[], Awaitable[Found]], *, within_s: float = 10.0) -> Found: ...
@overload
async def until(look: Callable[[], Found], *, within_s: float = 10.0) -> Found: ...
async def until(look: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    """The first result of `look`, a function or a coroutine function, that is true. Raises `TimeoutError`.

    For what gives no signal: another process, the kernel, a table of the database, a handler that ends.
    """
    async with asyncio.timeout(within_s):
        while True:
            result = look()
            found = await result if inspect.isawaitable(result) else result
            if found:
                return found
            await asyncio.sleep(0.005)


async def until_still(read: Callable[[], int], *, pause_s: float = 0.1, within_s: float = 30.0) -> int:
    """Call `read` until its result is not 0 and did not change for `pause_s`; returns that result."""
    before = 0
    async with asyncio.timeout(within_s):
        while before == 0 or before != read():
            before = read()
            await asyncio.sleep(pause_s)
    return before


class LogLines:
    """The lines that this thread logs from now on, in `lines`."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self._has_more = asyncio.Event()

    def take(self, _logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """A processor of structlog."""
        self.lines.append({**line, "log_level": method})
        self._has_more.set()
        return line

    async def wait(self, event: str, *, within_s: float = 10.0) -> dict[str, Any]:
        """The first line with this event, be it there already or still to come. Raises `TimeoutError`."""
        async with asyncio.timeout(within_s):
            while True:
                self._has_more.clear()
                for line in self.lines:
                    if line["event"] == event:
                        return line
                await self._has_more.wait()


@contextmanager
def log_lines() -> Iterator[LogLines]:
    """Collect the log lines of the block in place of their output."""
    found = LogLines()
    with capture_logs(processors=[found.take]):
        yield found
