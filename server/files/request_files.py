"""Implements the protocols of `server.actors.files` with the database and the object store."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from uuid import UUID

from server.actors.files import FileGone
from server.errors import NotFound
from server.file_reference import FileReference, find_references
from server.files.output_files import StoredOutputs
from server.files.statements import Statements
from server.files.stored import StoredFile, stored_file_of
from server.inference.events import InputFile
from server.inference.protocol import movie_index
from server.inference.protocol.iso_media import Box
from server.model_request import ModelRequest, UserId
from server.storage.database import DedicatedConnection
from server.storage.objects import Objects
from server.storage.objects.objects import CHUNK_BYTES


class StoredFiles:
    """`RequestFiles` of this instance. It calls `wake` when files must be deleted."""

    def __init__(
        self,
        connection: DedicatedConnection,
        objects: Objects,
        *,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._statements = Statements(connection)
        self._objects = objects
        self._wake = wake

    async def inputs(self, model_request: ModelRequest) -> Mapping[str, InputFile]:
        """The input files by their reference in the input. Raises `FileGone`, and `Unavailable`."""
        references = find_references(model_request.input_data)
        if not references:
            return {}
        files = await self._find(model_request.user_id, references)
        if (missing := await self._find_missing(list(files.values()))) is not None:
            await self._find(model_request.user_id, references)  # raises FileGone if it was deleted meanwhile
            raise self._objects.report_elsewhere(missing.key)
        return {reference.text: self._input_file(files[reference.file_id]) for reference in references}

    def outputs(self, model_request: ModelRequest) -> StoredOutputs:
        """Stores the files of this run. Does nothing before the first chunk."""
        return StoredOutputs(model_request, self._statements, self._objects, wake=self._wake)

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
        def open_file() -> AsyncIterator[bytes]:
            is_movie = file.content_type in movie_index.CONTENT_TYPES
            return self._read_movie(file) if is_movie else self._read(file, 0, None)

        return InputFile(file.content_type, file.size, open_file)

    async def _read(self, file: StoredFile, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        opened = await self._objects.get(file.key, start=start, end=end)
        async with contextlib.aclosing(opened.chunks) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _read_movie(self, file: StoredFile) -> AsyncGenerator[bytes, None]:
        """The file with its index in front, or as it is. One more range is read for each box before the index."""
        parts: list[bytes | tuple[int, int | None]] = [(0, None)]
        if (moved := await self._find_index(file)) is not None:
            place, box, index = moved
            parts = [(0, place), index, (place, box.start), (box.end, file.size)]
        for part in parts:
            if isinstance(part, bytes):
                for start in range(0, len(part), CHUNK_BYTES):
                    yield part[start : start + CHUNK_BYTES]
            elif part[0] != part[1]:
                async with contextlib.aclosing(self._read(file, *part)) as chunks:
                    async for chunk in chunks:
                        yield chunk

    async def _find_index(self, file: StoredFile) -> tuple[int, Box, bytes] | None:
        """Where the index of a film belongs, where it is, and what it is there; None if it stays."""
        search = movie_index.locate(file.size)
        try:
            wanted = next(search)
            while True:
                wanted = search.send(await self._read_all(file, *wanted))
        except StopIteration as found:
            if found.value is None:
                return None
            place, box = found.value
        content = await self._read_all(file, box.start, box.end)
        # In a thread, because a large table takes a part of a second.
        index = await asyncio.to_thread(movie_index.move_index, content, box.start, place)
        return None if index is None else (place, box, index)

    async def _read_all(self, file: StoredFile, start: int, end: int) -> bytes:
        async with contextlib.aclosing(self._read(file, start, end)) as chunks:
            return b"".join([chunk async for chunk in chunks])
