"""The byte stream of an upload: counted, bounded, and stoppable."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

from server.errors import BodyTooLarge


class UploadStopped(Exception):
    """Ends the stream with an error, so that the store aborts the upload."""


class UploadSource:
    """Iterate it once. `failure` is the error of the stream itself, if one ended it."""

    def __init__(self, chunks: AsyncIterable[bytes], *, max_bytes: int) -> None:
        self._chunks = aiter(chunks)
        self._max_bytes = max_bytes
        self._ahead: list[bytes] = []
        self._next: asyncio.Task[bytes | None] | None = None
        self._is_stopped = False
        self.failure: BaseException | None = None
        self.size = 0

    async def read_ahead(self, size: int) -> bytes | None:
        """The whole stream if it has at most `size` bytes. Else None, and an iteration yields the read bytes first."""
        ahead: list[bytes] = []
        async for chunk in self:
            ahead.append(chunk)
            if self.size > size:
                self._ahead = ahead[::-1]
                return None
        return b"".join(ahead)

    def stop(self) -> None:
        """End the stream with `UploadStopped`, at once if a consumer waits."""
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
        """The next chunk, read in a task that `stop` can cancel without cancelling the consumer."""
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
