"""What a generator needs of files: those that the input refers to, and a place for those that the model makes."""

from collections.abc import Mapping
from typing import Any, Protocol

from server.inference.events import FileChunk, InputFile
from server.model_request import ModelRequest


class FileGone(Exception):
    """The input refers to a file that is not there any more; the words are for the user."""


class OutputFiles(Protocol):
    """The files of one generation on their way to the store. Unless `finish` returned, `discard` ends it."""

    async def take(self, chunk: FileChunk) -> None:
        """Pass bytes on; returns when there is room for more. Raises a `Problem` when the store refuses."""
        ...

    async def finish(self) -> list[dict[str, Any]]:
        """All of them are stored: each as it stands in `output_data.files`. Raises a `Problem` as `take` does."""
        ...

    async def discard(self) -> None:
        """Nothing of it is wanted; never raises for what the store says, nor waits for it for long."""
        ...


class RequestFiles(Protocol):
    """The files of model requests."""

    async def inputs(self, model_request: ModelRequest) -> Mapping[str, InputFile]:
        """By the reference as it stands in the input; empty where there is none.

        Raises `FileGone`, and `Unavailable` while the database or the store is away.
        """
        ...

    def outputs(self, model_request: ModelRequest) -> OutputFiles:
        """Where the files of this run go. Costs nothing until the first chunk comes."""
        ...
