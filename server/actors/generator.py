"""Runs one model request at a time: off the queue, through the call upstream, to the outcome in the journal."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import structlog

from server.actors.capacity import Slots
from server.actors.entries import FinalRow, Recorded, ReleasedRow
from server.actors.heartbeat import Lease
from server.actors.journal import Journal
from server.actors.switchboard import Switchboard, View
from server.actors.workload import Running, StopReason, Workload
from server.catalog import Catalog
from server.encoding import dumps
from server.errors import Code
from server.inference.events import Call, Completed, Delta, Event, Segment, Started, Upstream
from server.inference.events import Failed as GenerationFailed
from server.model_request import Cancelled, Failed, FinalOutcome, Interrupted, ModelRequest, Outcome, Status
from server.schemas import render_final

MAX_OUTAGE_PAUSE_S = 30.0
_OUTAGE_PAUSE_S = 4.0
_MIN_OUTAGE_PAUSE_S = 1.0
_CLOSE_TIMEOUT_S = 1.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Transcript:
    """The text of a generation so far, for the partial answer of one that does not end well."""

    output: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    model: str | None = None

    def follow(self, event: Event) -> None:
        if isinstance(event, Started):
            self.model = event.model
        elif isinstance(event, Delta):
            (self.reasoning if event.segment is Segment.REASONING else self.output).append(event.text)

    def partial(self) -> dict[str, Any] | None:
        """What there is, marked as partial; None where there is nothing."""
        if not self.output and not self.reasoning:
            return None
        data: dict[str, Any] = {"output": "".join(self.output), "partial": True}
        if self.reasoning:
            data["reasoning"] = "".join(self.reasoning)
        return data


class Generator:
    """One of N equal actors; together they are this instance's capacity."""

    def __init__(
        self,
        queue: "asyncio.Queue[ModelRequest]",
        *,
        upstream: Upstream,
        catalog: Catalog,
        journal: Journal,
        switchboard: Switchboard,
        workload: Workload,
        slots: Slots,
        lease: Lease,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._queue = queue
        self._upstream = upstream
        self._catalog = catalog
        self._journal = journal
        self._switchboard = switchboard
        self._workload = workload
        self._slots = slots
        self._lease = lease
        self._jitter = jitter

    async def run(self) -> None:
        while True:
            await self.process(await self._queue.get())

    async def process(self, model_request: ModelRequest) -> None:
        """From the queue to the committed outcome. The slot is free again at the end, whatever happened."""
        running = self._workload.get(model_request.id)
        if running is None or running.model_request is not model_request:
            running = self._workload.add(model_request)
        try:
            if model_request.owner != self._lease.instance_id:
                return  # claimed under an id that was declared dead since: it is rescued and run again
            self._switchboard.publish(model_request.id, View(Status.PROCESSING, model_request.epoch))
            started = asyncio.get_running_loop().time()
            outcome = await self._reach_outcome(running)
            taken = timedelta(seconds=asyncio.get_running_loop().time() - started)
            if outcome is not None:
                await self._bring_home(model_request, outcome, taken)
        finally:
            self._workload.remove(running)
            self._slots.release()

    async def _reach_outcome(self, running: Running) -> Outcome | None:
        """Generate in a task of its own, which can be stopped without stopping this actor. None: nothing to record."""
        transcript = Transcript()
        generation = asyncio.create_task(
            self._generate(running.model_request, transcript), name=f"generation-{running.model_request.id}"
        )
        running.generation = generation
        if running.stop_reason is not None:
            generation.cancel()
        try:
            return await generation
        except asyncio.CancelledError:
            this_actor = asyncio.current_task()
            if running.stop_reason is None or (this_actor is not None and this_actor.cancelling()):
                generation.cancel()
                await asyncio.wait({generation}, timeout=_CLOSE_TIMEOUT_S)
                raise
            return _stopped(running.stop_reason, transcript)
        except Exception:
            log.exception("generation_crashed", id=str(running.model_request.id))
            return Failed(Code.SERVER_ERROR, "The server failed while running this request.", transcript.partial())

    async def _generate(self, model_request: ModelRequest, transcript: Transcript) -> Outcome:
        await self._lease.wait_trusted()  # no new call upstream while another instance may take this row over
        left_s = model_request.seconds_left()
        if left_s <= 0:
            return _overdue(model_request)
        model_type = self._catalog.model_type(model_request.model_type)
        call = Call(
            task=model_type.task,
            models=self._catalog.chain(model_request.model_type, model_request.model),
            input_data=model_request.input_data,
            parameters=model_request.parameters,
        )
        async with contextlib.aclosing(self._upstream.generate(call, timeout_s=left_s)) as events:
            async for event in events:
                transcript.follow(event)
                if isinstance(event, Completed):
                    return event
                if isinstance(event, GenerationFailed):
                    return self._judge(event, model_request)
        raise RuntimeError("the upstream ended without a final event")

    def _judge(self, failure: GenerationFailed, model_request: ModelRequest) -> Outcome:
        """An outage is not an outcome: while there is time, the row goes back to the backlog."""
        left_s = model_request.seconds_left()
        if failure.transient and left_s > 0:
            wanted_s = max(_MIN_OUTAGE_PAUSE_S, failure.retry_after_s or _OUTAGE_PAUSE_S)
            pause_s = min(MAX_OUTAGE_PAUSE_S, wanted_s * self._jitter(1.0, 1.5))  # never before upstream asked for it
            return Interrupted(min(pause_s, left_s), failure.code, failure.message)
        prefix = "Not finished by its deadline. " if failure.transient else ""
        return Failed(
            failure.code, prefix + failure.message, failure.output_data, usage=failure.usage, model=failure.model
        )

    async def _bring_home(self, model_request: ModelRequest, outcome: Outcome, taken: timedelta) -> None:
        if isinstance(outcome, Interrupted):
            released = await self._journal.release(
                ReleasedRow(
                    model_request.id,
                    model_request.owner,
                    model_request.epoch,
                    outcome.delay_s,
                    outcome.error_code,
                    outcome.error_msg,
                )
            )
            log.info("request_released", id=str(model_request.id), fate=released.fate, reason=outcome.error_msg)
            status = Status.PENDING if released.completed_at is None else Status.CANCELLED
            self._switchboard.publish(model_request.id, View(status, model_request.epoch))
            return
        recorded, outcome = await self._record(model_request, outcome, taken)
        log.info(
            "request_ended",
            id=str(model_request.id),
            status=outcome.status,
            fate=recorded.fate,
            attempt=model_request.attempt,
            epoch=model_request.epoch,
            model=outcome.model,
            ms=round(taken.total_seconds() * 1000, 1),
            error=outcome.error_msg,
        )
        if recorded.counts and recorded.completed_at is not None:
            self._publish(model_request, outcome, recorded.completed_at, taken)

    async def _record(
        self, model_request: ModelRequest, outcome: FinalOutcome, taken: timedelta
    ) -> tuple[Recorded, FinalOutcome]:
        try:
            return await self._journal.record(_final_row(model_request, outcome, taken)), outcome
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            log.exception("outcome_refused", id=str(model_request.id))
            outcome = Failed(Code.SERVER_ERROR, "The answer could not be stored.", model=outcome.model)
            return await self._journal.record(_final_row(model_request, outcome, taken)), outcome

    def _publish(
        self, model_request: ModelRequest, outcome: FinalOutcome, completed_at: datetime, taken: timedelta
    ) -> None:
        body = render_final(model_request, outcome, completed_at=completed_at, processing_time=taken)
        self._switchboard.publish(model_request.id, View(outcome.status, model_request.epoch, body))


def _overdue(model_request: ModelRequest) -> Failed:
    """Its deadline passed in the backlog: for the reason that sent it there, or for want of a free slot."""
    last = model_request.last_error
    if last is None:
        return Failed(Code.SERVER_ERROR, "Not finished by its deadline: it was still waiting for its turn.")
    return Failed(last.error_code, f"Not finished by its deadline. {last.error_msg}")


def _stopped(reason: StopReason, transcript: Transcript) -> Outcome | None:
    match reason:
        case StopReason.CANCELLED:
            return Cancelled(transcript.partial(), model=transcript.model)
        case StopReason.SHUTDOWN:
            return Interrupted(0.0)
        case StopReason.LOST:
            return None


def _final_row(model_request: ModelRequest, outcome: FinalOutcome, taken: timedelta) -> FinalRow:
    return FinalRow(
        id=model_request.id,
        owner=model_request.owner,
        epoch=model_request.epoch,
        status=outcome.status,
        output_data=None if outcome.output_data is None else dumps(outcome.output_data),
        error_code=outcome.error_code,
        error_msg=outcome.error_msg,
        token_used=outcome.usage.token_used,
        token_count=outcome.usage.token_count,
        processing_time=taken,
        model=outcome.model,
    )
