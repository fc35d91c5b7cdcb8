"""Streams files from a model to the store. Few chunks are in memory: upstream waits for the store."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from server.errors import BodyTooLarge, Problem, Unavailable
from server.files.sniffing import correct
from server.files.statements import Statements
from server.inference.events import FileChunk
from server.model_request import ModelRequest, mint_id
from server.storage.objects import ObjectKey, Objects, content_type_of, kept_type, key_of

MAX_OUTPUT_BYTES = 128 * 1024 * 1024
"""For one file."""
MAX_OUTPUTS = 100
"""For one request. A segmented image has a mask for each segment."""
DISCARD_TIMEOUT_S = 1.0
"""For deletes in `discard`: the end of the request waits for them."""
_QUEUED_CHUNKS = 4
_RETRY_S = 2.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Output:
    """One file: the queue of its bytes, with None at the end, and the task that stores them and returns the size."""

    id: UUID
    key: ObjectKey
    queue: "asyncio.Queue[bytes | None]"
    upload: "asyncio.Task[int]"

    async def put(self, data: bytes | None) -> None:
        """Wait for room in the queue. Raises the upload's error if the upload ends first."""
        try:
            self.queue.put_nowait(data)
        except asyncio.QueueFull:
            putting = asyncio.ensure_future(self.queue.put(data))
            try:
                await asyncio.wait({putting, self.upload}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                putting.cancel()
        if self.upload.done():
            self.upload.result()


class StoredOutputs:
    """`OutputFiles` of one run. Each file gets a row with request and epoch before its bytes."""

    def __init__(
        self,
        model_request: ModelRequest,
        statements: Statements,
        objects: Objects,
        *,
        wake: Callable[[], None],
        max_bytes: int = MAX_OUTPUT_BYTES,
    ) -> None:
        self._request = model_request
        self._statements = statements
        self._objects = objects
        self._wake = wake
        self._max_bytes = max_bytes
        self._outputs: list[_Output] = []
        self._ids: list[UUID] = []

    async def take(self, chunk: FileChunk) -> None:
        """Store bytes; returns when there is room for more. Raises a `Problem` if the store fails."""
        if chunk.number == len(self._outputs):
            await self._end_last()
            self._outputs.append(await self._begin(chunk))
        elif chunk.number != len(self._outputs) - 1:
            raise ValueError(f"file {chunk.number} is out of order")
        await self._outputs[-1].put(chunk.data)

    async def finish(self) -> list[dict[str, Any]]:
        """Wait until all files are stored. Returns `output_data.files`. Raises a `Problem` as `take` does."""
        if not self._outputs:
            return []
        await self._end_last()
        sizes = [output.upload.result() for output in self._outputs]
        stored = await self._statements.fetch("store_outputs", self._ids, sizes)
        if len(stored) != len(sizes):
            raise _lost()
        return [
            {
                "number": number,
                "content_type": content_type_of(output.key),
                "size": size,
                "url": f"/api/requests/{self._request.id}/files/{number}",
            }
            for number, (output, size) in enumerate(zip(self._outputs, sizes, strict=True))
        ]

    async def discard(self) -> None:
        """Delete all files of the run. Raises no error of the store, and waits at most `DISCARD_TIMEOUT_S` for it.

        An upload that does not end in time ends in the background, and the store removes its bytes.
        """
        for output in self._outputs:
            output.upload.cancel()
            output.upload.add_done_callback(_retrieve_error)
        if self._outputs:
            await asyncio.wait([output.upload for output in self._outputs], timeout=DISCARD_TIMEOUT_S)
        if self._ids:
            with contextlib.suppress(Problem, TimeoutError):  # else the collector deletes them in a minute
                rows = await self._statements.fetch("discard_files", self._ids)
                collected = {row["id"] for row in rows}
                async with asyncio.timeout(DISCARD_TIMEOUT_S):
                    await self._objects.delete([output.key for output in self._outputs if output.id not in collected])
            self._wake()

    async def _begin(self, chunk: FileChunk) -> _Output:
        if len(self._outputs) == MAX_OUTPUTS:
            raise BodyTooLarge(f"The model made more than {MAX_OUTPUTS} files.")
        file_id, content_type = mint_id(), kept_type(correct(chunk.content_type, chunk.data))
        self._ids.append(file_id)
        request = self._request
        if not await self._statements.fetch(
            "begin_output", file_id, request.id, request.epoch, chunk.number, content_type
        ):
            raise _lost()
        queue = asyncio.Queue[bytes | None](_QUEUED_CHUNKS)
        key = key_of(request.user_id, file_id, content_type)
        put = self._objects.put(key, _chunks_of(queue), max_bytes=self._max_bytes)
        return _Output(file_id, key, queue, asyncio.create_task(put, name=f"output-{file_id}"))

    async def _end_last(self) -> None:
        if self._outputs:
            await self._outputs[-1].put(None)
            await self._outputs[-1].upload


async def _chunks_of(queue: "asyncio.Queue[bytes | None]") -> AsyncIterator[bytes]:
    while (data := await queue.get()) is not None:
        yield data


def _retrieve_error(upload: "asyncio.Task[int]") -> None:
    """So that asyncio does not log it as never retrieved."""
    if not upload.cancelled():
        upload.exception()


def _lost() -> Unavailable:
    return Unavailable("Another server has taken over this request.", retry_after_s=_RETRY_S)
