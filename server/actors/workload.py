"""The model requests that this instance runs, from the claim to the committed outcome."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from server.inference.events import Task
from server.model_request import ModelRequest, RequestId, RequestSpec, Usage, UserId
from server.transcript import Transcript


class StopReason(StrEnum):
    CANCELLED = "cancelled"
    """Its user cancelled it. The outcome is `Cancelled`."""
    LATE = "late"
    """Its deadline passed while its files were being stored. The call upstream has its own time limit."""
    LOST = "lost"
    """The row is gone, or another instance owns it. There is nothing to record."""
    SHUTDOWN = "shutdown"
    """This instance stops. The row goes back to the backlog."""


@dataclass(slots=True)
class Running:
    model_request: ModelRequest
    generation: "asyncio.Task[object] | None" = None
    stop_reason: StopReason | None = None
    transcript: Transcript = field(default_factory=Transcript)
    usage: Usage = field(default_factory=Usage)
    """The counts so far, for an outcome that is not upstream's."""
    task: Task | None = None
    called_at: float | None = None
    """Monotonic time of the call upstream; None before it. The next two: its first delta, its end however it came."""
    first_delta_at: float | None = None
    answered_at: float | None = None
    provider: str | None = None
    """The provider that answers, for the price."""


LARGE_BYTES = 64 * 1024
"""Smaller requests are not counted. The number is also in `accept_requests`."""
LARGE_ROOM_BYTES = 48 * 1024 * 1024
"""Input and parameters of all large requests that run here. A run holds about three copies of them."""


def large_bytes(spec: RequestSpec) -> int:
    """The bytes that a request takes of `Workload.large_room`: 0 for a small one."""
    size = len(spec.input_data) + len(spec.parameters)
    return size if size > LARGE_BYTES else 0


@dataclass(slots=True)
class Workload:
    """Every model request that holds a slot here. `large_room` are the bytes of large requests that may still start.

    `held` counts the slots of each user.
    """

    large_room: int = LARGE_ROOM_BYTES
    held: Counter[UserId] = field(default_factory=Counter)
    _running: dict[RequestId, Running] = field(default_factory=dict)
    _stops_all: StopReason | None = None

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._running

    def add(self, model_request: ModelRequest) -> Running:
        if (earlier := self._running.get(model_request.id)) is not None:
            self.remove(earlier)
        running = self._running[model_request.id] = Running(model_request, stop_reason=self._stops_all)
        self.take(model_request)
        return running

    def take(self, spec: RequestSpec) -> None:
        """Count a request that is about to run here."""
        self.large_room -= large_bytes(spec)
        self.held[spec.user_id] += 1

    def give_back(self, spec: RequestSpec) -> None:
        """Undo `take`."""
        self.large_room += large_bytes(spec)
        self.held[spec.user_id] -= 1
        if not self.held[spec.user_id]:
            del self.held[spec.user_id]

    def get(self, request_id: RequestId) -> Running | None:
        return self._running.get(request_id)

    def find_transcript(self, request_id: RequestId, epoch: int) -> Transcript | None:
        """The growing text of a run here."""
        running = self._running.get(request_id)
        return running.transcript if running is not None and running.model_request.epoch == epoch else None

    def remove(self, running: Running) -> None:
        if self._running.get(running.model_request.id) is running:
            del self._running[running.model_request.id]
            self.give_back(running.model_request)

    def claims(self) -> list[tuple[RequestId, int]]:
        """Id and epoch of each request, for the heartbeat to compare with the database."""
        return [(request_id, running.model_request.epoch) for request_id, running in self._running.items()]

    def stop(self, request_id: RequestId, reason: StopReason) -> bool:
        """Interrupt one generation. False if it does not generate here, or has ended."""
        running = self._running.get(request_id)
        if running is None or running.stop_reason is not None:
            return False
        if running.generation is not None and running.generation.done():
            return False  # its outcome is being committed
        running.stop_reason = reason
        if running.generation is not None:
            running.generation.cancel()
        return True

    def stop_all(self, reason: StopReason) -> int:
        """Interrupt all generations, and those added later. Returns how many were running."""
        self._stops_all = reason
        return sum(self.stop(request_id, reason) for request_id in list(self._running))
