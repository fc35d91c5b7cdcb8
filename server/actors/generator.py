"""Runs one model request at a time: takes it from the queue, calls upstream, and records the outcome."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import orjson
import structlog

from server.actors.capacity import Slots
from server.actors.feeds import Feeds
from server.actors.files import FileGone, OutputFiles, RequestFiles
from server.actors.heartbeat import Lease
from server.actors.journal import Journal
from server.actors.run_metrics import RunMetrics
from server.actors.subscription import View
from server.actors.subscriptions import Subscriptions
from server.actors.workload import Running, StopReason, Workload
from server.actors.writes import ReleasedRow, WriteResult
from server.catalog import Catalog
from server.encoding import dumps
from server.errors import Code, Problem, Unavailable
from server.inference.events import (
    Call,
    Completed,
    Counted,
    Delta,
    FileChunk,
    GenerationFailed,
    Segment,
    Started,
    Upstream,
)
from server.inference.pricing import Pricing
from server.model_request import Cancelled, Failed, FinalOutcome, FinalRow, Interrupted, ModelRequest, Outcome, Status
from server.schemas import render_final
from server.telemetry.trace_context import TRACEPARENT, trace_id_of
from server.transcript import START, Transcript

MAX_OUTAGE_PAUSE_S = 30.0
STORING_S = 2.0
"""Time after the deadline in which the files of an answer may still be stored."""
_OUTAGE_PAUSE_S = 4.0
_MIN_OUTAGE_PAUSE_S = 1.0
_CLOSE_TIMEOUT_S = 1.0
_NOT_STORED = "Not finished by its deadline: the storage for files was too slow."

log = structlog.get_logger(__name__)


class Generator:
    """One of N equal actors, which together make up the capacity of this instance."""

    def __init__(
        self,
        queue: "asyncio.Queue[ModelRequest]",
        *,
        upstream: Upstream,
        catalog: Catalog,
        journal: Journal,
        subscriptions: Subscriptions,
        feeds: Feeds,
        workload: Workload,
        slots: Slots,
        lease: Lease,
        files: RequestFiles,
        metrics: RunMetrics,
        pricing: Pricing,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._queue = queue
        self._upstream = upstream
        self._catalog = catalog
        self._journal = journal
        self._subscriptions = subscriptions
        self._feeds = feeds
        self._workload = workload
        self._slots = slots
        self._lease = lease
        self._files = files
        self._metrics = metrics
        self._pricing = pricing
        self._jitter = jitter

    async def run(self) -> None:
        while True:
            await self.process(await self._queue.get())

    async def process(self, model_request: ModelRequest) -> None:
        """Run a request until its outcome is committed. The slot is free at the end, also after an error."""
        running = self._workload.get(model_request.id)
        if running is None or running.model_request is not model_request:
            running = self._workload.add(model_request)
        try:
            if model_request.owner != self._lease.instance_id:
                return  # claimed under an id that was declared dead since: another claim runs it
            self._publish(model_request, View(Status.PROCESSING, model_request.epoch))
            self._metrics.begin(model_request)
            started = asyncio.get_running_loop().time()
            outcome = await self._reach_outcome(running)
            taken = timedelta(seconds=asyncio.get_running_loop().time() - started)
            if outcome is not None:
                await self._save_outcome(running, outcome, taken)
            self._metrics.end(running, outcome)
        finally:
            self._workload.remove(running)
            self._slots.release()

    async def _reach_outcome(self, running: Running) -> Outcome | None:
        """Generate in a separate task, which can be stopped without this actor. None: there is nothing to record."""
        transcript = running.transcript
        generation = asyncio.create_task(self._generate(running), name=f"generation-{running.model_request.id}")
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
            return _stopped(running, running.stop_reason)
        except Exception:
            log.exception("generation_crashed", id=str(running.model_request.id))
            message = "The server failed while running this request."
            return Failed(Code.SERVER_ERROR, message, transcript.partial(), running.usage)
        finally:
            running.answered_at = running.answered_at or time.monotonic()
            transcript.is_complete = True

    async def _generate(self, running: Running) -> Outcome:
        model_request = running.model_request
        TRACEPARENT.set(model_request.traceparent)  # of this task
        await self._lease.wait_trusted()  # no new call upstream while another instance may take this row over
        left_s = model_request.seconds_left()
        if left_s <= 0:
            return _overdue(model_request)
        outputs = self._files.outputs(model_request)
        is_kept = False
        timer = asyncio.get_running_loop().call_later(
            left_s + STORING_S, self._workload.stop, model_request.id, StopReason.LATE
        )
        try:
            outcome = await self._call(running, outputs, left_s)
            is_kept = isinstance(outcome, Completed)
            return outcome
        except FileGone as error:
            return Failed(Code.VALIDATION_ERROR, str(error))
        except Unavailable as problem:  # the files are not available: an outage, too
            pause_s = min(problem.retry_after_s * self._jitter(1.0, 1.5), model_request.seconds_left())
            return Interrupted(max(0.0, pause_s), problem.code, problem.detail)
        except Problem as problem:
            message = f"The model's answer could not be kept. {problem.detail}"
            return Failed(problem.code, message, usage=running.usage, model=running.transcript.model)
        finally:
            timer.cancel()
            if not is_kept:
                await outputs.discard()

    async def _call(self, running: Running, outputs: OutputFiles, timeout_s: float) -> Outcome:
        """Run the call to its end. Its text goes to the transcript, its files to the store."""
        model_request, transcript = running.model_request, running.transcript
        running.task = self._catalog.model_type(model_request.model_type).task
        call = Call(
            task=running.task,
            models=self._catalog.chain(model_request.model_type, model_request.model),
            input_data=orjson.loads(model_request.input_data),
            parameters=orjson.loads(model_request.parameters),
            files=await self._files.inputs(model_request),
        )
        running.called_at = time.monotonic()
        async with contextlib.aclosing(self._upstream.generate(call, timeout_s=timeout_s)) as events:
            async for event in events:
                match event:
                    case Delta():
                        if running.first_delta_at is None:
                            running.first_delta_at = time.monotonic()
                        transcript.append(event)
                    case Started():
                        transcript.model, running.provider = event.model, event.provider
                    case Counted():
                        running.usage = event.usage
                    case FileChunk():
                        await outputs.take(event)
                    case Completed():
                        running.answered_at = time.monotonic()
                        running.usage = event.usage
                        return await _with_files(_with_whole_text(event, transcript), outputs)
                    case GenerationFailed():
                        running.answered_at = time.monotonic()
                        return self._outcome_of_failure(event, model_request)
        raise RuntimeError("the upstream ended without a final event")

    def _outcome_of_failure(self, failure: GenerationFailed, model_request: ModelRequest) -> Outcome:
        """`Interrupted` for an outage while there is time: the row goes back to the backlog. Otherwise `Failed`."""
        left_s = model_request.seconds_left()
        if failure.transient and left_s > 0:
            wanted_s = max(_MIN_OUTAGE_PAUSE_S, failure.retry_after_s or _OUTAGE_PAUSE_S)
            pause_s = min(MAX_OUTAGE_PAUSE_S, wanted_s * self._jitter(1.0, 1.5))  # never before upstream asked for it
            return Interrupted(min(pause_s, left_s), failure.code, failure.message, failure.upstream_error)
        prefix = "Not finished by its deadline. " if failure.transient else ""
        return Failed(
            failure.code,
            prefix + failure.message,
            failure.output_data,
            usage=failure.usage,
            model=failure.model,
            upstream_error=failure.upstream_error,
        )

    async def _save_outcome(self, running: Running, outcome: Outcome, taken: timedelta) -> None:
        model_request = running.model_request
        if isinstance(outcome, Interrupted):
            released = await self._journal.release(
                ReleasedRow(
                    model_request.id,
                    model_request.owner,
                    model_request.epoch,
                    outcome.delay_s,
                    outcome.error_code,
                    outcome.error_msg,
                    _json_of(outcome.upstream_error),
                )
            )
            log.info("request_released", id=str(model_request.id), fate=released.status, reason=outcome.error_msg)
            status = Status.PENDING if released.completed_at is None else Status.CANCELLED
            self._publish(model_request, View(status, model_request.epoch))
            return
        row, recorded = await self._record(running, outcome, taken)
        log.info(
            "request_ended",
            id=str(row.id),
            status=row.status,
            fate=recorded.status,
            attempt=model_request.attempt,
            epoch=row.epoch,
            model=row.model,
            ms=round(taken.total_seconds() * 1000, 1),
            error=row.error_msg,
            trace_id=trace_id_of(model_request.traceparent),
        )
        if recorded.counts and recorded.completed_at is not None:
            has_all = row.output_data is not None or running.transcript.end == START
            running.transcript.is_kept = has_all and not running.transcript.is_void
            body = render_final(model_request, row, completed_at=recorded.completed_at)
            self._publish(model_request, View(row.status, row.epoch, body))

    async def _record(self, running: Running, outcome: FinalOutcome, taken: timedelta) -> tuple[FinalRow, WriteResult]:
        """Write the outcome; one that the database refuses for its content becomes a failure."""
        row = self._final_row(running, outcome, taken)
        try:
            return row, await self._journal.record(row)
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            log.exception("outcome_refused", id=str(row.id))
            message = "The answer could not be stored."
            failed = Failed(Code.SERVER_ERROR, message, usage=outcome.usage, model=outcome.model)
            row = self._final_row(running, failed, taken)
            return row, await self._journal.record(row)

    def _final_row(self, running: Running, outcome: FinalOutcome, taken: timedelta) -> FinalRow:
        model_request = running.model_request
        transcript = running.transcript
        segments = transcript.shape_of_other(outcome.output_data) if transcript.is_void else transcript.shape()
        return FinalRow(
            id=model_request.id,
            owner=model_request.owner,
            epoch=model_request.epoch,
            status=outcome.status,
            output_data=_json_of(outcome.output_data),
            error_code=outcome.error_code,
            error_msg=outcome.error_msg,
            token_used=outcome.usage.token_used,
            token_count=outcome.usage.token_count,
            processing_time=taken,
            model=outcome.model,
            segments=None if outcome.output_data is None else _json_of(segments),
            usage=_json_of(outcome.usage.as_fields()),
            upstream_error=_json_of(outcome.upstream_error),
            cost_usd=self._pricing.cost_of(
                outcome.usage, model=outcome.model or model_request.model, provider=running.provider
            ),
        )

    def _publish(self, model_request: ModelRequest, view: View) -> None:
        self._subscriptions.publish(model_request.id, view)
        self._feeds.notify(model_request.user_id, model_request.id, view)


def _with_whole_text(completed: Completed, transcript: Transcript) -> Completed:
    """Add the text of the answer to the transcript, if it did not come as deltas. Returns the outcome unchanged."""
    text = completed.output_data.get("output")
    if isinstance(text, str):
        if text and not transcript.has(Segment.OUTPUT):
            transcript.append(Delta(text))
        transcript.is_void = transcript.text_of(Segment.OUTPUT) != text
    return completed


async def _with_files(completed: Completed, outputs: OutputFiles) -> Completed:
    files = await outputs.finish()
    return replace(completed, output_data={**completed.output_data, "files": files}) if files else completed


def _overdue(model_request: ModelRequest) -> Failed:
    """The deadline passed in the backlog. The error is the one that sent the row there, if there was one."""
    last = model_request.last_error
    if last is None:
        return Failed(Code.SERVER_ERROR, "Not finished by its deadline: it was still waiting for its turn.")
    message = f"Not finished by its deadline. {last.error_msg}"
    return Failed(last.error_code, message, upstream_error=last.upstream_error)


def _stopped(running: Running, reason: StopReason) -> Outcome | None:
    transcript = running.transcript
    match reason:
        case StopReason.CANCELLED:
            return Cancelled(transcript.partial(), running.usage, transcript.model)
        case StopReason.LATE:
            return Failed(Code.SERVER_ERROR, _NOT_STORED, transcript.partial(), running.usage)
        case StopReason.SHUTDOWN:
            return Interrupted(0.0)
        case StopReason.LOST:
            return None


def _json_of(value: Any) -> bytes | None:
    """For a column: None is NULL, not JSON's null."""
    return None if value is None else dumps(value)
