"""Implements the protocols of `server.actors.files` with the database and the object store."""

from collections.abc import Callable, Mapping

from server.files.input_files import InputLoader
from server.files.output_files import StoredOutputs
from server.files.statements import Statements
from server.inference.events import InputFile
from server.model_request import ModelRequest
from server.storage.database import DedicatedConnection
from server.storage.objects import Objects


class StoredFiles:
    """`RequestFiles` of this instance. It calls `wake` when files must be deleted."""

    def __init__(
        self,
        line: DedicatedConnection,
        queries: Mapping[str, str],
        objects: Objects,
        *,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._statements = Statements(line, queries)
        self._objects = objects
        self._wake = wake
        self._inputs = InputLoader(self._statements, objects)

    async def inputs(self, model_request: ModelRequest) -> Mapping[str, InputFile]:
        """The input files by their reference in the input. Raises `FileGone`, and `Unavailable`."""
        return await self._inputs.load(model_request)

    def outputs(self, model_request: ModelRequest) -> StoredOutputs:
        """Stores the files of this run. Does nothing before the first chunk."""
        return StoredOutputs(model_request, self._statements, self._objects, wake=self._wake)
