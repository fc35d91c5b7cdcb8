"""Receives uploads. The database reserves their size before the bytes arrive, and releases it if the upload fails."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from server.actors.heartbeat import Lease
from server.errors import (
    BadSyntax,
    BodyTooLarge,
    Conflict,
    NotFound,
    Problem,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from server.files.collector import FileCollector
from server.files.sniffing import judge
from server.files.stored import NO_UPLOAD
from server.inference.protocol.file_types import HEAD_BYTES
from server.model_request import UserId, mint_id
from server.storage.objects import ObjectKey, Objects, key_of
from server.storage.reader import PooledQueries

UNUSED_S = 24 * 3600.0
"""An upload that no request uses is deleted after this."""
FIRST_STEP_BYTES = 1024 * 1024
"""The first reservation for an upload of unknown size. It doubles while bytes arrive."""
MIB = 1024 * 1024
_QUOTA_RETRY_S = 3600.0
_RETRY_S = 2.0
_NOT_SHARED_RETRY_S = 60.0
_NOT_SHARED = (
    "No files are taken: the servers of this service keep files in separate places and cannot read each other's. "
    "Its operator finds the remedy in the log (files_not_shared)."
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """A stored upload; `size` in bytes."""

    id: UUID
    content_type: str
    size: int
    created_at: datetime


class Uploads:
    """Uploads of users. `max_bytes` limits one file, `quota_bytes` all files of one user (None: no limit).

    `held_bytes` is the memory that an upload takes while it arrives.
    """

    def __init__(
        self,
        reader: PooledQueries,
        objects: Objects,
        *,
        collector: FileCollector,
        lease: Lease,
        max_bytes: int,
        quota_bytes: int | None,
        held_bytes: int,
    ) -> None:
        self._reader = reader
        self._objects = objects
        self._collector = collector
        self._lease = lease
        self.max_bytes = max_bytes
        self.held_bytes = held_bytes
        self._quota_bytes = quota_bytes

    async def take(
        self,
        user_id: UserId,
        chunks: AsyncIterator[bytes],
        *,
        declared_type: str,
        size: int | None,
        decide_type: Callable[[str, bytes], str] = judge,
        unused_s: float = UNUSED_S,
    ) -> Upload:
        """Store a stream. `size` is its maximum in bytes, if known. It is deleted if no request uses it in `unused_s`.

        `decide_type` gets the declared type and the first bytes, and returns the type to store.

        Raises `UnsupportedMedia`, `BadSyntax` (empty), `BodyTooLarge`, `RateLimited` (quota), `Unauthenticated` (the
        account was deleted), `Unavailable` (also while instances do not share their files), and errors of the stream.
        After an error nothing is kept.
        """
        if self._lease.other_stores:
            raise Unavailable(_NOT_SHARED, retry_after_s=_NOT_SHARED_RETRY_S)
        head = await _read_head(chunks)
        if not head:
            raise BadSyntax("The file is empty.")
        content_type = decide_type(declared_type, head)
        file_id = mint_id()
        self._collector.arriving.add(file_id)
        try:
            reservation = _Reservation(self, file_id, user_id, content_type)
            await reservation.grow(size or min(self.max_bytes, max(len(head), FIRST_STEP_BYTES)))
            stream = reservation.charge(head, chunks)
            return await self._store(file_id, user_id, content_type, stream, unused_s=unused_s)
        finally:
            self._collector.arriving.discard(file_id)

    async def _store(
        self, file_id: UUID, user_id: UserId, content_type: str, chunks: AsyncIterator[bytes], *, unused_s: float
    ) -> Upload:
        key = key_of(user_id, file_id, content_type)
        try:
            size = await self._objects.put(key, chunks, max_bytes=self.max_bytes)
            row = await self._reader.fetch_row("store_upload", file_id, size, unused_s)
            if row is None:
                raise _not_completed()
        except BaseException:
            await self._delete_failed(file_id, key)
            raise
        log.info("upload_stored", id=str(file_id), content_type=content_type, size=size)
        return Upload(file_id, content_type, size, row["created_at"])

    async def _delete_failed(self, file_id: UUID, key: ObjectKey) -> None:
        """If the database or the store is unavailable, the collector deletes it later by its row."""
        try:
            if not await self._reader.fetch("discard_files", [file_id]):
                await self._objects.delete([key])
        except Problem:
            log.info("upload_left_behind", id=str(file_id))
        self._collector.wake()

    async def discard_unused(self, file_ids: Sequence[UUID]) -> None:
        """Delete those of these uploads that no request uses. Without the database, the collector does it later."""
        with contextlib.suppress(Problem):
            if await self._reader.fetch("discard_unused_uploads", file_ids):
                self._collector.wake()

    async def reserve(self, file_id: UUID, user_id: UserId, content_type: str, size: int) -> None:
        """Reserve `size` bytes for an upload, in place of its earlier reservation."""
        row = await self._reader.fetch_row(
            "reserve_upload", file_id, user_id, self._lease.instance_id, content_type, size, self._quota_bytes
        )
        if row is None:
            raise Unauthenticated  # the account was deleted, and its token is still valid
        if row["room"] is None:
            raise _not_completed()
        if row["room"] < 0:
            left_mib = max(0, row["room"] + size) / MIB
            raise RateLimited(
                f"Your uploads would exceed your {(self._quota_bytes or 0) / MIB:g} MB: {left_mib:.1f} MB are left. "
                "Delete some; unused uploads are deleted after a day.",
                retry_after_s=_QUOTA_RETRY_S,
            )

    async def delete(self, user_id: UserId, file_id: UUID) -> None:
        """Raises `NotFound`, and `Conflict` while a request that is not final uses the file."""
        row = await self._reader.fetch_row("delete_upload", file_id, user_id)
        if row is None or row["is_deleted"] is None:
            raise NotFound(NO_UPLOAD)
        if not row["is_deleted"]:
            raise Conflict("A request that has not ended uses this file: cancel it, or wait for its end.")
        self._collector.wake()

    async def delete_all(self, user_id: UserId) -> None:
        """Delete all files of a deleted account, including those of its requests."""
        await self._reader.fetch("discard_files_of_user", user_id)
        self._collector.wake()


class _Reservation:
    """The reservation for one upload. It grows before more bytes are accepted."""

    def __init__(self, uploads: Uploads, file_id: UUID, user_id: UserId, content_type: str) -> None:
        self._uploads = uploads
        self._upload = file_id, user_id, content_type
        self._size = 0

    async def grow(self, size: int) -> None:
        await self._uploads.reserve(*self._upload, size)
        self._size = size

    async def charge(self, head: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """All bytes of the upload, each reserved before it is yielded."""
        taken, limit = len(head), self._uploads.max_bytes
        yield head
        async for chunk in chunks:
            taken += len(chunk)
            if taken > limit:
                raise too_large(limit)
            if taken > self._size:
                await self.grow(min(limit, max(2 * self._size, taken)))
            yield chunk


def _not_completed() -> Unavailable:
    """For an upload whose reservation was released, because this instance was considered dead."""
    return Unavailable("The upload was not completed; try again.", retry_after_s=_RETRY_S)


def too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"A file may have at most {max_bytes / MIB:g} MB.")


async def _read_head(chunks: AsyncIterator[bytes]) -> bytes:
    """The first bytes of the stream, at least `HEAD_BYTES` unless it is shorter."""
    head = bytearray()
    while len(head) < HEAD_BYTES and (chunk := await anext(chunks, None)) is not None:
        head += chunk
    return bytes(head)
