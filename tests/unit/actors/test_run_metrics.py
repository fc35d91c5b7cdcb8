"""The metrics of runs: what is counted for each outcome, and how many names of models they take."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from server.actors import run_metrics
from server.actors.run_metrics import MAX_MODEL_CHARS, OTHER, RunMetrics
from server.actors.workload import Running, StopReason
from server.errors import Code
from server.inference.events import Completed, Delta, GenerationFailed, Started, Task
from server.model_request import Outcome, Usage
from server.telemetry.instruments import Histograms, Labels
from tests.unit.actors.generators import Desk
from tests.unit.actors.test_workload import model_request

DONE = Completed({"output": "Hi"}, Usage(5, 2), "org/model")


def counts(histograms: Histograms) -> dict[Labels, float]:
    return {labels: sum(series[:-1]) for labels, series in histograms.series.items()}


async def test_a_completed_run_is_counted_with_its_tokens_and_times() -> None:
    desk = Desk(Started("org/model"), Delta("Hi"), DONE)
    await desk.process()
    metrics, kind = desk.metrics, ("chat", "org/model")
    assert metrics.generations.values == {(*kind, "completed", ""): 1}
    assert counts(metrics.calls) == {(*kind, ""): 1}
    assert counts(metrics.first_chunks) == {kind: 1}
    assert {labels: series[-1] for labels, series in metrics.tokens.series.items()} == {
        (*kind, "input"): 3,
        (*kind, "output"): 2,
    }
    assert counts(metrics.overheads) == counts(metrics.ages) == {(): 1}


async def test_outcomes_and_errors_are_counted_apart() -> None:
    failed = GenerationFailed(Code.MODEL_ERROR, "No.", model="org/model")
    for step, labels in (
        (failed, ("chat", "org/model", "failed", "MODEL_ERROR")),
        (replace(failed, transient=True), ("chat", "", "interrupted", "MODEL_ERROR")),
    ):
        desk = Desk(step)
        await desk.process()
        assert desk.metrics.generations.values == {labels: 1}
        assert desk.metrics.first_chunks.series == {}


async def test_a_cancelled_run_counts_the_time_of_its_call() -> None:
    def cancel() -> None:
        desk.workload.stop(request.id, StopReason.CANCELLED)

    desk = Desk(Started("org/model"), Delta("Hi"), cancel, asyncio.Event())
    request = desk.claimed()
    await desk.process(request)
    assert desk.metrics.generations.values == {("chat", "org/model", "cancelled", "cancelled"): 1}
    assert counts(desk.metrics.calls) == {("chat", "org/model", "cancelled"): 1}


async def test_a_run_that_never_called_upstream_has_an_outcome_and_no_duration() -> None:
    desk = Desk(DONE)
    await desk.process(deadline_left_s=0.0)
    assert desk.metrics.generations.values == {("", "", "failed", "SERVER_ERROR"): 1}
    assert desk.metrics.calls.series == desk.metrics.overheads.series == {}


def test_the_age_is_the_time_since_the_create_by_the_clock_of_the_database() -> None:
    metrics = RunMetrics(())
    request = model_request()
    lifetime = timedelta(seconds=600)
    metrics.begin(replace(request, deadline_at=request.created_at + lifetime, deadline_left_s=580.0))
    assert metrics.ages.series[()][-1] == 20


def test_only_models_that_answered_get_series_of_their_own_and_not_more_than_the_bound() -> None:
    metrics = RunMetrics(["known"])

    def label_of(model: str, outcome: Outcome | None) -> str:
        running = Running(model_request(), task=Task.CHAT_COMPLETION)
        running.transcript.model = model
        metrics.generations.values.clear()
        metrics.end(running, outcome)
        [(_, label, *_)] = metrics.generations.values
        return label

    def answering(model: str) -> str:
        return label_of(model, replace(DONE, model=model))

    def failing(model: str) -> str:
        return label_of(model, None)

    assert failing("invented/name") == OTHER
    assert failing("known") == "known"
    assert answering("x" * (MAX_MODEL_CHARS + 1)) == OTHER
    names = [f"org/model-{number}" for number in range(run_metrics.MAX_MODELS)]
    assert [answering(name) for name in names] == names
    assert answering("org/one-more") == OTHER
    assert answering(names[0]) == failing(names[0]) == names[0]
