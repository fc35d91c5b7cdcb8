"""Uploads as inputs of requests: checks their owner before a request is accepted, and protects them from deletion."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from server.errors import FieldError
from server.file_reference import FileReference, find_references
from server.files.uploads import UNUSED_S
from server.inference.protocol.file_types import why_refused
from server.model_request import RequestId, UserId
from server.schemas import invalid
from server.storage.reader import PooledQueries

MAX_FILES = 256
"""Files of one request. A generator looks for all of them first, and opens one after the other."""


class InputFiles:
    """Attaches uploads to new requests. Without file references it makes no query."""

    def __init__(self, reader: PooledQueries) -> None:
        self._reader = reader

    async def attach(self, user_id: UserId, request_id: RequestId, input_data: bytes) -> bool:
        """Record that a request, which is stored next, uses the files in its input. False if there are none.

        Raises `Invalid`, by field, for a file of another user or of a wrong kind, and `Unavailable` without the
        database. A use without a request expires after 15 minutes; `detach` ends it at once.
        """
        references = find_references(input_data)
        if not references:
            return False
        ids = list(dict.fromkeys(reference.file_id for reference in references))
        if len(ids) > MAX_FILES:
            raise invalid([FieldError("input_data", f"must not refer to more than {MAX_FILES} files")])
        rows = await self._reader.fetch("attach_uploads", user_id, request_id, ids, UNUSED_S)
        types = {row["id"]: row["content_type"] for row in rows}
        if errors := [error for reference in references if (error := _check(reference, types)) is not None]:
            if len(types) == len(ids):
                await self.detach(request_id)
            raise invalid(errors)
        return True

    async def detach(self, request_id: RequestId) -> None:
        """Undo `attach` for a request that was rejected or is a duplicate."""
        await self._reader.fetch("detach_uploads", request_id)


def require_in_place(carried: Iterable[str], input_data: bytes, parameters: bytes) -> None:
    """Raise `Invalid` where a file that was inside a body, now a reference, was meant as text."""
    texts = [text for text in carried if text.encode() in input_data or text.encode() in parameters]
    places = {reference.text for reference in find_references(input_data)} if texts else set()
    if not places.issuperset(texts):
        raise invalid(
            [FieldError("input_data", "must not hold a data: URL of more than 64 KiB where text is expected")]
        )


def _check(reference: FileReference, types: Mapping[UUID, str]) -> FieldError | None:
    content_type = types.get(reference.file_id)
    if content_type is None:
        return FieldError(reference.path, "there is no such file of yours")
    reason = None if reference.kind == "file" else why_refused(content_type, reference.kind)
    return None if reason is None else FieldError(reference.path, reason)
