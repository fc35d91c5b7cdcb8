"""Outcomes, times and tokens of the runs of this instance, by task and model."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from server.actors.workload import Running
from server.inference.events import Task
from server.model_request import Interrupted, ModelRequest, Outcome
from server.telemetry.instruments import Counters, Histograms

MAX_MODELS = 100
"""Names of models besides those of the catalog that get series of their own. A request may name any of thousands."""
MAX_MODEL_CHARS = 128
OTHER = "other"
CALL_BOUNDS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BOUNDS = tuple(4**power for power in range(14))
"""Both as OpenTelemetry's conventions for generative AI recommend them."""
_OVERHEAD_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_AGE_BOUNDS_S = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_OPERATIONS = {
    Task.CHAT_COMPLETION: "chat",
    Task.TEXT_GENERATION: "text_completion",
    Task.FEATURE_EXTRACTION: "embeddings",
}
"""The names that the conventions give. They allow others: here the name of the task."""


class RunMetrics:
    """All generators of an instance share one. `known_models` always have series of their own."""

    def __init__(self, known_models: Iterable[str]) -> None:
        self._models = set(known_models)
        self._max_models = len(self._models) + MAX_MODELS
        self.generations = Counters()
        self.calls = Histograms(CALL_BOUNDS_S)
        self.first_chunks = Histograms(CALL_BOUNDS_S)
        self.tokens = Histograms(TOKEN_BOUNDS)
        self.overheads = Histograms(_OVERHEAD_BOUNDS_S)
        self.ages = Histograms(_AGE_BOUNDS_S)

    def begin(self, model_request: ModelRequest) -> None:
        """Note a start. The age of the request is that of the database's clock, at the claim."""
        lifetime_s = (model_request.deadline_at - model_request.created_at).total_seconds()
        self.ages.observe(max(0.0, lifetime_s - model_request.deadline_left_s))

    def end(self, running: Running, outcome: Outcome | None) -> None:
        """Note the end of a run, after its outcome was committed. None: another instance owns the row."""
        now = time.monotonic()
        status, error, model, usage = _describe(running, outcome)
        kind = _operation_of(running.task), self._label(model, has_answered=status == "completed")
        self.generations.add((*kind, status, error))
        if running.called_at is None:
            return
        upstream_s = (running.answered_at or now) - running.called_at
        self.calls.observe(upstream_s, (*kind, error))
        self.overheads.observe(now - running.model_request.claimed_at - upstream_s)
        if running.first_delta_at is not None:
            self.first_chunks.observe(running.first_delta_at - running.called_at, kind)
        for token_type, name in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            if (count := usage.get(name)) is not None:
                self.tokens.observe(count, (*kind, token_type))

    def _label(self, model: str | None, *, has_answered: bool) -> str:
        """The name of the model, or `other`. Only a model that has answered takes one of the free places."""
        if model is None or model in self._models:
            return model or ""
        if not has_answered or len(self._models) >= self._max_models or len(model) > MAX_MODEL_CHARS:
            return OTHER
        self._models.add(model)
        return model


def _operation_of(task: Task | None) -> str:
    return "" if task is None else _OPERATIONS.get(task) or task.value


def _describe(running: Running, outcome: Outcome | None) -> tuple[str, str, str | None, Mapping[str, Any]]:
    """Outcome, kind of error (empty for success), model and counts of tokens."""
    if outcome is None:
        return "lost", "lost", running.transcript.model, {}
    if isinstance(outcome, Interrupted):
        return "interrupted", outcome.error_code or "interrupted", running.transcript.model, {}
    error = outcome.error_code or ("" if outcome.status == "completed" else outcome.status.value)
    return outcome.status.value, error, outcome.model, outcome.usage.as_fields() or {}
