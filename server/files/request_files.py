"""Implements what `server.actors.files` asks for: the files of model requests, in the store and in the database."""

from collections.abc import Callable, Mapping

from server.files.inputs import InputLoader
from server.files.outputs import StoredOutputs
from server.files.statements import Statements
from server.inference.events import InputFile
from server.model_request import ModelRequest
from server.storage.database import DedicatedConnection
from server.storage.objects import Objects


class StoredFiles:
    """`RequestFiles` of this instance. `wake` is called when something is to be deleted."""

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
        self._inputs = InputLoader(self._statements, objects)

    async def inputs(self, model_request: ModelRequest) -> Mapping[str, InputFile]:
        """By the reference as it stands in the input; empty where there is none.

        Raises `FileGone`, and `Unavailable` while the database or the store is away.
        """
        return await self._inputs.load(model_request)

    def outputs(self, model_request: ModelRequest) -> StoredOutputs:
        """Where the files of this run go. Costs nothing until the first chunk comes."""
        return StoredOutputs(model_request, self._statements, self._objects, wake=self._wake)
