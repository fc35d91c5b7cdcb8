"""The files of model requests, in memory."""

import asyncio
from collections.abc import Mapping
from typing import Any

from server.inference.events import FileChunk, InputFile
from server.model_request import ModelRequest


class FakeOutputs:
    """The files of one run. `error` is raised by `take`; `gate` is waited for by `finish`."""

    def __init__(self) -> None:
        self.chunks: list[FileChunk] = []
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.discards = 0

    async def take(self, chunk: FileChunk) -> None:
        if self.error is not None:
            raise self.error
        self.chunks.append(chunk)

    async def finish(self) -> list[dict[str, Any]]:
        if self.gate is not None:
            await self.gate.wait()
        return [{"content_type": chunk.content_type, "size": len(chunk.data)} for chunk in self.chunks]

    async def discard(self) -> None:
        self.discards += 1


class FakeFiles:
    """One set of outputs for all runs. `input_error` is raised instead of the inputs."""

    def __init__(self) -> None:
        self.output = FakeOutputs()
        self.input_files: dict[str, InputFile] = {}
        self.input_error: Exception | None = None

    async def inputs(self, model_request: ModelRequest) -> Mapping[str, InputFile]:
        if self.input_error is not None:
            raise self.input_error
        return self.input_files

    def outputs(self, model_request: ModelRequest) -> FakeOutputs:
        return self.output
