"""Files by key: kept, read, listed, deleted; always as a stream, never a whole file in memory."""

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from server.errors import NotFound, Problem, Unavailable
from server.storage.objects.names import ObjectKey, content_type_of, is_key, parse_key
from server.storage.objects.storage_faults import AWAY_RETRY_S, Fault, fix_for, problem_for, read_fault
from server.storage.objects.upload_source import Source, UploadStopped

if TYPE_CHECKING:
    from obstore.store import LocalStore, S3Store

PART_BYTES = 5 * 1024 * 1024
"""The least that S3 takes as a part; what is smaller is sent in one call."""
WRITE_BYTES = 1024 * 1024
"""The same for a folder, which does not mind."""
PARTS_AT_ONCE = 1
"""A second one on its way at the same time costs each upload 7 MB more memory."""
CHUNK_BYTES = 256 * 1024
DELETES_AT_ONCE = 8
LIST_PAGE = 1000
ABORT_TIMEOUT_S = 20.0
QUIET_S = 60.0
"""How long a fault that was logged is not logged again."""
_NOBODY = "nobody"
"""A folder that no user can have: listing it costs nothing, and tells whether listing works."""

log = structlog.get_logger(__name__)


class Place(Protocol):
    """Where the files are; its text names it without a secret."""

    def open(self) -> "LocalStore | S3Store": ...

    def identify(self) -> str:
        """The same text wherever the same files can be read, and nowhere else. May block."""
        ...

    def settle(self, key: ObjectKey, /) -> None:
        """Make a file that was written survive a power failure. May block."""
        ...

    def remove_leftovers(self, older_than: datetime, /) -> int:
        """Remove what uploads that were killed have left and no listing shows; how many. May block."""
        ...


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing tells of a file."""

    key: ObjectKey
    size: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class OpenObject:
    """A file that is being read: bytes `start` to `end` (exclusive) of `size`. `chunks` can be read once."""

    size: int
    start: int
    end: int
    content_type: str
    chunks: AsyncGenerator[bytes, None]


class Objects:
    """One store of files. Every method raises a `Problem` for what went wrong, and logs what the operator can mend."""

    def __init__(self, place: Place, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.place = place
        self._clock = clock
        self._store: LocalStore | S3Store | None = None
        self._uploads: dict[asyncio.Task[None], Source] = {}
        self._logged: dict[Fault, float] = {}

    async def identify(self) -> str:
        """Which store this is: instances with the same text read each other's files."""
        return await asyncio.to_thread(self.place.identify)

    def report_elsewhere(self, key: ObjectKey) -> Problem:
        """What to raise for a file that has a row, and no bytes here. The log says what the operator can do."""
        self._tell(Fault.ELSEWHERE)
        log.warning("file_elsewhere", key=key)
        return problem_for(Fault.ELSEWHERE)

    async def put(self, key: ObjectKey, chunks: AsyncIterable[bytes], *, max_bytes: int) -> int:
        """Keep a stream under a key; returns its size. It is there as a whole or not at all, whatever happens.

        Raises `BodyTooLarge` beyond `max_bytes`; errors of the stream itself pass as they are.
        """
        parse_key(key)
        store = await self._opened()
        source = Source(chunks, max_bytes=max_bytes)
        upload = asyncio.create_task(self._upload(store, key, source), name=f"upload-{key}")
        self._uploads[upload] = source
        upload.add_done_callback(self._uploads.pop)
        try:
            await asyncio.shield(upload)
        except asyncio.CancelledError:
            # Left to itself, a cancelled upload leaves its parts in the bucket: let the store take them back.
            source.stop()
            await asyncio.wait({upload}, timeout=ABORT_TIMEOUT_S)
            if upload.done() and not upload.cancelled() and upload.exception() is None:
                await self.delete([key])
            upload.cancel()
            raise
        except UploadStopped as error:
            raise Unavailable("The server is stopping; try again.", retry_after_s=AWAY_RETRY_S) from error
        finally:
            del upload  # its error holds this frame, and would be held by it
        return source.size

    async def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> OpenObject:
        """Open a file, whole or from `start` to `end` (exclusive; beyond its end is its end).

        Raises `NotFound`, and `Invalid` for a range that begins beyond the end or holds nothing.
        """
        parse_key(key)
        if start < 0 or (end is not None and end <= start):
            raise problem_for(Fault.RANGE)
        store = await self._opened()
        options: Any = {}
        if end is not None:
            options = {"range": (start, end)}
        elif start:
            options = {"range": {"offset": start}}
        with self._explained():
            found = await store.get_async(key, options=options)
        first, last = found.range
        stream = self._read(found.stream(min_chunk_size=CHUNK_BYTES))
        return OpenObject(found.meta["size"], first, last, content_type_of(key), stream)

    async def head(self, key: ObjectKey) -> StoredObject:
        """Raises `NotFound`."""
        store = await self._opened()
        with self._explained():
            meta = await store.head_async(parse_key(key))
        return StoredObject(key, meta["size"], meta["last_modified"])

    async def delete(self, keys: Sequence[ObjectKey]) -> None:
        """Gone is gone: a file that is not there counts as deleted."""
        store = await self._opened()
        waiting = iter([parse_key(key) for key in keys])

        async def work() -> None:
            for key in waiting:
                with contextlib.suppress(NotFound), self._explained():
                    await store.delete_async(key)

        # gather and not a TaskGroup: callers expect a Problem, not a group of them.
        workers = [asyncio.create_task(work(), name="delete-files") for _ in range(min(DELETES_AT_ONCE, len(keys)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            if workers:
                await asyncio.wait(workers)

    async def list_files(self) -> AsyncIterator[StoredObject]:
        """All of them; what else lies in the bucket is left out."""
        store = await self._opened()
        with self._explained():
            async for page in store.list(chunk_size=LIST_PAGE):
                for meta in page:
                    if is_key(meta["path"]):
                        yield StoredObject(ObjectKey(meta["path"]), meta["size"], meta["last_modified"])

    async def remove_leftovers(self, *, older_than: datetime) -> int:
        """Remove the halves of files whose upload was killed, where that is ours to do; how many there were."""
        await self._opened()
        with self._explained():
            return await asyncio.to_thread(self.place.remove_leftovers, older_than)

    async def check(self) -> Fault | None:
        """What keeps files from being kept, as far as looking for nothing can tell. Changes nothing."""
        try:
            store = await self._opened()
            async for _ in store.list(_NOBODY):
                break
        except Exception as error:  # noqa: BLE001 - whatever is in the way is the finding
            fault = read_fault(error.__cause__ or error)
            return Fault.UNEXPECTED if fault is Fault.NO_OBJECT else fault
        try:
            await store.get_async(f"{_NOBODY}/nothing")
        except Exception as error:  # noqa: BLE001 - as above
            fault = read_fault(error)
            return None if fault is Fault.NO_OBJECT else fault
        return Fault.UNEXPECTED  # a page of HTML passes for an empty listing, but this file cannot be there

    async def close(self) -> None:
        """End what is being uploaded. The store itself opens again for whoever still comes."""
        uploads = dict(self._uploads)
        for source in uploads.values():
            source.stop()
        if uploads:
            _, stuck = await asyncio.wait(uploads, timeout=ABORT_TIMEOUT_S)
            for upload in stuck:
                upload.cancel()
        self._store = None

    async def _opened(self) -> "LocalStore | S3Store":
        if self._store is None:
            await asyncio.to_thread(importlib.import_module, "obstore.store")
        if self._store is None:
            with self._explained():
                self._store = self.place.open()
        return self._store

    async def _upload(self, store: "LocalStore | S3Store", key: ObjectKey, source: Source) -> None:
        from obstore.store import S3Store  # noqa: PLC0415 - loaded by then

        is_bucket = isinstance(store, S3Store)
        attributes: Any = {"Content-Type": content_type_of(key)} if is_bucket else None
        part_bytes = PART_BYTES if is_bucket else WRITE_BYTES
        try:
            whole = await source.read_ahead(part_bytes)
            with self._explained(source):
                await store.put_async(
                    key,
                    source if whole is None else whole,
                    attributes=attributes,
                    use_multipart=whole is None,
                    chunk_size=part_bytes,
                    max_concurrency=PARTS_AT_ONCE,
                )
                await asyncio.to_thread(self.place.settle, key)
        finally:
            source.failure = None  # it holds this frame, which holds the source

    async def _read(self, stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        with self._explained():
            async for chunk in stream:
                yield chunk

    @contextlib.contextmanager
    def _explained(self, source: Source | None = None) -> Iterator[None]:
        """Turn what obstore raises into a `Problem`; with a source, what that raised passes."""
        from obstore.exceptions import BaseError  # noqa: PLC0415 - loaded by then

        try:
            yield
        except (BaseError, OSError) as error:
            if source is not None and source.failure is not None:
                raise source.failure from error
            fault = read_fault(error)
            if source is not None and fault is Fault.NO_OBJECT:
                fault = Fault.UNEXPECTED  # a missing bucket has a code of its own
            self._tell(fault)
            raise problem_for(fault) from error

    def _tell(self, fault: Fault) -> None:
        fix, now = fix_for(fault), self._clock()
        if fix and now - self._logged.get(fault, -QUIET_S) >= QUIET_S:
            self._logged[fault] = now
            log.error("storage_fault", fault=fault.value, place=str(self.place), fix=fix)
