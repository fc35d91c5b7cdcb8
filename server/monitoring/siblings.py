"""The workers of one server ask each other for their metrics, over a Unix socket for each in a private folder."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

TIMEOUT_S = 2.0
"""For a worker whose event loop hangs. Prometheus gives up a scrape after 10 s."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Siblings:
    """Worker `number` of `count`. A server without workers has no folder, and is worker 0 of 1."""

    folder: Path | None = None
    number: int = 0
    count: int = 1

    @contextlib.asynccontextmanager
    async def answering(self, describe: Callable[[], bytes]) -> AsyncIterator[None]:
        """Answer the others until the block ends. If the socket cannot be opened, the server works without."""
        if self.folder is None:
            yield
            return

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError), contextlib.closing(writer):
                writer.write(describe())
                await writer.drain()

        path = self._socket(self.number)
        async with contextlib.AsyncExitStack() as stack:
            try:
                path.unlink(missing_ok=True)  # of this worker's dead predecessor
                await stack.enter_async_context(await asyncio.start_unix_server(answer, str(path)))
            except OSError as error:
                log.warning("metrics_not_shared", reason=str(error))
            yield

    async def ask(self) -> dict[int, bytes | None]:
        """The answer of each of the others; None from one that starts, hangs or is dead."""
        others = [number for number in range(self.count) if number != self.number]
        return dict(zip(others, await asyncio.gather(*map(self._ask, others)), strict=True))

    async def _ask(self, number: int) -> bytes | None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(str(self._socket(number)))
                with contextlib.closing(writer):
                    return await reader.read() or None
        except (OSError, TimeoutError):
            return None

    def _socket(self, number: int) -> Path:
        return (self.folder or Path()) / f"{number}.sock"


ALONE = Siblings()
"""For a server without workers."""
