"""Uploads as inputs of requests: checks their owner before a request is accepted, and protects them from deletion."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from server.actors.files import FileGone
from server.errors import FieldError, NotFound
from server.file_reference import FileReference, find_references
from server.files.statements import Statements
from server.files.stored import StoredFile, stored_file_of
from server.files.uploads import UNUSED_S
from server.inference.events import InputFile
from server.model_request import ModelRequest, RequestId, UserId
from server.schemas import invalid
from server.storage.objects import Objects
from server.storage.reader import PooledQueries

MAX_FILES = 16
"""Files of one request. A generator opens all of them."""
_VIDEO_TYPES = frozenset({"video/mp4", "video/webm"})
"""Accepted as audio, because of their sound."""


class InputFiles:
    """Attaches uploads to new requests. Without file references it makes no query."""

    def __init__(self, reader: PooledQueries) -> None:
        self._reader = reader

    async def attach(self, user_id: UserId, request_id: RequestId, input_data: Mapping[str, Any]) -> bool:
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


class InputLoader:
    """Loads the input files of a request for a generator."""

    def __init__(self, statements: Statements, objects: Objects) -> None:
        self._statements = statements
        self._objects = objects

    async def load(self, model_request: ModelRequest) -> Mapping[str, InputFile]:
        """The input files by their reference in the input. Raises `FileGone`, and `Unavailable`."""
        references = find_references(model_request.input_data)
        if not references:
            return {}
        files = await self._find(model_request.user_id, references)
        if (missing := await self._find_missing(list(files.values()))) is not None:
            await self._find(model_request.user_id, references)  # raises FileGone if it was deleted meanwhile
            raise self._objects.report_elsewhere(missing.key)
        return {reference.text: self._input_file(files[reference.file_id]) for reference in references}

    async def _find(self, user_id: UserId, references: Sequence[FileReference]) -> dict[UUID, StoredFile]:
        """The rows of the referenced files, by id. Raises `FileGone`."""
        ids = list({reference.file_id for reference in references})
        rows = await self._statements.fetch("find_inputs", user_id, ids)
        files = {row["id"]: stored_file_of(row) for row in rows}
        for reference in references:
            if reference.file_id not in files:
                raise FileGone(f"The file {reference.text} was deleted before the model could read it.")
        return files

    async def _find_missing(self, files: Sequence[StoredFile]) -> StoredFile | None:
        """A file without an object in this store, if there is one.

        An unavailable store raises here, before the upstream call begins.
        """
        results = await asyncio.gather(*(self._objects.head(file.key) for file in files), return_exceptions=True)
        missing = None
        for file, result in zip(files, results, strict=True):
            if isinstance(result, NotFound):
                missing = file
            elif isinstance(result, BaseException):
                raise result
        return missing

    def _input_file(self, file: StoredFile) -> InputFile:
        async def read() -> AsyncIterator[bytes]:
            opened = await self._objects.get(file.key)
            async for chunk in opened.chunks:
                yield chunk

        return InputFile(file.content_type, file.size, read)


def _check(reference: FileReference, types: Mapping[UUID, str]) -> FieldError | None:
    content_type = types.get(reference.file_id)
    if content_type is None:
        return FieldError(reference.path, "there is no such file of yours")
    if content_type.startswith(f"{reference.kind}/") or (reference.kind == "audio" and content_type in _VIDEO_TYPES):
        return None
    article = "an" if reference.kind[0] in "ai" else "a"
    return FieldError(reference.path, f"must be {article} {reference.kind} file, and this one is {content_type}")
