"""The bytes of an upload on their way to the store: counted, bounded, and made to end early when nobody wants them."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

from server.errors import BodyTooLarge


class UploadStopped(Exception):
    """Ends the stream with an error, so that the store takes back what it has."""


class Source:
    """Iterate once. `failure` is the error that ended the stream, if it was not the store's."""

    def __init__(self, chunks: AsyncIterable[bytes], *, max_bytes: int) -> None:
        self._chunks = aiter(chunks)
        self._max_bytes = max_bytes
        self._ahead: list[bytes] = []
        self._next: asyncio.Task[bytes | None] | None = None
        self._is_stopped = False
        self.failure: BaseException | None = None
        self.size = 0

    async def read_ahead(self, size: int) -> bytes | None:
        """The whole stream if it is at most this long; else None, and iterating begins with what was read."""
        ahead: list[bytes] = []
        async for chunk in self:
            ahead.append(chunk)
            if self.size > size:
                self._ahead = ahead[::-1]
                return None
        return b"".join(ahead)

    def stop(self) -> None:
        """Make the stream end with `UploadStopped`, now if it is being waited for."""
        self._is_stopped = True
        if self._next is not None:
            self._next.cancel()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._is_stopped:
            raise UploadStopped
        if self._ahead:
            return self._ahead.pop()
        try:
            chunk = await self._pull()
            self.size += len(chunk)
            if self.size > self._max_bytes:
                raise BodyTooLarge(f"The file is larger than {self._max_bytes} bytes.")
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.failure = error
            raise
        return chunk

    async def _pull(self) -> bytes:
        """The next chunk, by a task that `stop` can cancel without cancelling the one that waits for it."""
        self._next = asyncio.create_task(self._one(), name="next-chunk")
        try:
            chunk = await self._next
        except asyncio.CancelledError:
            self._next.cancel()
            if self._is_stopped:
                raise UploadStopped from None
            raise
        finally:
            self._next = None
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def _one(self) -> bytes | None:
        """None at the end: a task cannot end with StopAsyncIteration."""
        return await anext(self._chunks, None)
