"""The files that a generator needs: those that its input names, and a place for those that the model makes."""

from collections.abc import Mapping
from typing import Any, Protocol

from server.inference.events import FileChunk, InputFile
from server.model_request import ModelRequest


class FileGone(Exception):
    """The input names a file that was deleted. The message is written for the user."""


class OutputFiles(Protocol):
    """The output files of one generation. Call `discard` unless `finish` returned."""

    async def take(self, chunk: FileChunk) -> None:
        """Pass bytes to the store; returns when there is room for more. Raises a `Problem` when the store refuses."""
        ...

    async def finish(self) -> list[dict[str, Any]]:
        """Complete all files; returns the items of `output_data.files`. Raises a `Problem` as `take` does."""
        ...

    async def discard(self) -> None:
        """Delete all of it. Never raises for an error of the store, and never waits long for it."""
        ...


class RequestFiles(Protocol):
    """The files of model requests."""

    async def inputs(self, model_request: ModelRequest) -> Mapping[str, InputFile]:
        """By the reference as it stands in the input; empty where there is none.

        Raises `FileGone`, and `Unavailable` while the database or the store is away.
        """
        ...

    def outputs(self, model_request: ModelRequest) -> OutputFiles:
        """Where the files of this run go. It costs nothing before the first chunk."""
        ...
