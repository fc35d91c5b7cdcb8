"""Stores, reads, lists and deletes files by key, always as streams, so that no file is in memory as a whole."""

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
from server.storage.objects.storage_faults import AWAY_RETRY_S, StorageFault, fix_for, problem_for, read_fault
from server.storage.objects.upload_source import UploadSource, UploadStopped

if TYPE_CHECKING:
    from obstore.store import LocalStore, S3Store

PART_BYTES = 5 * 1024 * 1024
"""The smallest part that S3 accepts. A smaller file is sent in one call."""
WRITE_BYTES = 256 * 1024
"""The part size for a folder."""
PARTS_AT_ONCE = 1
"""A second concurrent part would cost 7 MB more memory for each upload."""
CHUNK_BYTES = 256 * 1024
DELETES_AT_ONCE = 8
LIST_PAGE = 1000
ABORT_TIMEOUT_S = 20.0
QUIET_S = 60.0
"""Least time between two log lines about the same fault."""
_PROBE_FOLDER = "no-user"
"""A folder that no user can have, to test whether listing works."""

log = structlog.get_logger(__name__)


class StoreLocation(Protocol):
    """A bucket or a folder. `str` names it without a secret."""

    def open(self) -> "LocalStore | S3Store": ...

    def identify(self) -> str:
        """A text that is equal exactly for instances that share the same files. May block."""
        ...

    def sync(self, key: ObjectKey, /) -> None:
        """Make a written file survive a power failure. May block."""
        ...

    def remove_leftovers(self, older_than: datetime, /) -> int:
        """Remove partial files of killed uploads, which no listing shows. Returns their number. May block."""
        ...


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A file in a listing."""

    key: ObjectKey
    size: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class OpenObject:
    """A file opened for reading: bytes `start` to `end` (exclusive) of `size`. `chunks` can be read once."""

    size: int
    start: int
    end: int
    content_type: str
    chunks: AsyncGenerator[bytes, None]


class Objects:
    """An object store. Every method raises a `Problem` for a fault, and logs faults that the operator can fix."""

    def __init__(self, location: StoreLocation, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.location = location
        self._clock = clock
        self._store: LocalStore | S3Store | None = None
        self._uploads: dict[asyncio.Task[None], UploadSource] = {}
        self._logged: dict[StorageFault, float] = {}

    async def identify(self) -> str:
        """The identity of the store. Instances with the same identity share their files."""
        return await asyncio.to_thread(self.location.identify)

    def report_elsewhere(self, key: ObjectKey) -> Problem:
        """The error for a file with a row but without an object in this store. Logs a fix for the operator."""
        self._log_fault(StorageFault.ELSEWHERE)
        log.warning("file_elsewhere", key=key)
        return problem_for(StorageFault.ELSEWHERE)

    async def put(self, key: ObjectKey, chunks: AsyncIterable[bytes], *, max_bytes: int) -> int:
        """Store a stream atomically under a key. Returns its size in bytes.

        Raises `BodyTooLarge` beyond `max_bytes`. Errors of the stream itself pass through.
        """
        parse_key(key)
        store = await self._opened()
        source = UploadSource(chunks, max_bytes=max_bytes)
        upload = asyncio.create_task(self._upload(store, key, source), name=f"upload-{key}")
        self._uploads[upload] = source
        upload.add_done_callback(self._uploads.pop)
        try:
            await asyncio.shield(upload)
        except asyncio.CancelledError:
            # A cancelled multipart upload would leave its parts in the bucket, so let the store abort it.
            source.stop()
            await asyncio.wait({upload}, timeout=ABORT_TIMEOUT_S)
            if upload.done() and not upload.cancelled() and upload.exception() is None:
                await self.delete([key])
            upload.cancel()
            raise
        except UploadStopped as error:
            raise Unavailable("The server is stopping; try again.", retry_after_s=AWAY_RETRY_S) from error
        finally:
            del upload  # breaks a reference cycle between the task's error and this frame
        return source.size

    async def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> OpenObject:
        """Open a file, or its bytes from `start` to `end` (exclusive, cut to the size of the file).

        Raises `NotFound`, and `Invalid` for a range that is empty or starts beyond the end.
        """
        parse_key(key)
        if start < 0 or (end is not None and end <= start):
            raise problem_for(StorageFault.RANGE)
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
        """Delete files. Missing ones are no error."""
        store = await self._opened()
        waiting = iter([parse_key(key) for key in keys])

        async def work() -> None:
            for key in waiting:
                with contextlib.suppress(NotFound), self._explained():
                    await store.delete_async(key)

        # gather and not a TaskGroup: callers expect a Problem, not an ExceptionGroup.
        workers = [asyncio.create_task(work(), name="delete-files") for _ in range(min(DELETES_AT_ONCE, len(keys)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            if workers:
                await asyncio.wait(workers)

    async def list_files(self) -> AsyncIterator[StoredObject]:
        """All files of the server. Other objects in the bucket are skipped."""
        store = await self._opened()
        with self._explained():
            async for page in store.list(chunk_size=LIST_PAGE):
                for meta in page:
                    if is_key(meta["path"]):
                        yield StoredObject(ObjectKey(meta["path"]), meta["size"], meta["last_modified"])

    async def remove_leftovers(self, *, older_than: datetime) -> int:
        """Remove partial files of killed uploads. Returns their number."""
        await self._opened()
        with self._explained():
            return await asyncio.to_thread(self.location.remove_leftovers, older_than)

    async def check(self) -> StorageFault | None:
        """The fault that prevents use of the store, as far as read-only calls can tell; None without a fault."""
        try:
            store = await self._opened()
            async for _ in store.list(_PROBE_FOLDER):
                break
        except Exception as error:  # noqa: BLE001 - any error is the finding
            fault = read_fault(error.__cause__ or error)
            return StorageFault.UNEXPECTED if fault is StorageFault.NO_OBJECT else fault
        try:
            await store.get_async(f"{_PROBE_FOLDER}/nothing")
        except Exception as error:  # noqa: BLE001 - as above
            fault = read_fault(error)
            return None if fault is StorageFault.NO_OBJECT else fault
        return StorageFault.UNEXPECTED  # a page of HTML looks like an empty listing, but this file cannot exist

    async def close(self) -> None:
        """Stop all uploads. A later call opens the store again."""
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
                self._store = self.location.open()
        return self._store

    async def _upload(self, store: "LocalStore | S3Store", key: ObjectKey, source: UploadSource) -> None:
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
                await asyncio.to_thread(self.location.sync, key)
        finally:
            source.failure = None  # breaks a reference cycle with this frame

    async def _read(self, stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        with self._explained():
            async for chunk in stream:
                yield chunk

    @contextlib.contextmanager
    def _explained(self, source: UploadSource | None = None) -> Iterator[None]:
        """Turn errors of obstore into a `Problem`. Errors of `source` itself pass through."""
        from obstore.exceptions import BaseError  # noqa: PLC0415 - loaded by then

        try:
            yield
        except (BaseError, OSError) as error:
            if source is not None and source.failure is not None:
                raise source.failure from error
            fault = read_fault(error)
            if source is not None and fault is StorageFault.NO_OBJECT:
                fault = StorageFault.UNEXPECTED  # a missing bucket has its own code
            self._log_fault(fault)
            raise problem_for(fault) from error

    def _log_fault(self, fault: StorageFault) -> None:
        fix, now = fix_for(fault), self._clock()
        if fix and now - self._logged.get(fault, -QUIET_S) >= QUIET_S:
            self._logged[fault] = now
            log.error("storage_fault", fault=fault.value, place=str(self.location), fix=fix)
