"""All metrics of this server: name, meaning, labels, and where the value is read at a scrape.

Names and units are those of OpenTelemetry's conventions where these exist (`http_server_…`, `gen_ai_client_…`).
`docs/metrics.md` shows this table.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import asyncpg

from server import __version__
from server.engine import Engine
from server.inference.events import Upstream
from server.lifecycle import Lifecycle, Phase
from server.monitoring.families import Kind, Reading
from server.telemetry.instruments import Counters, Histograms, Labels

HTTP_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 90.0)
"""A create that waits is held for up to 90 s."""
LAG_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_OPERATION = ("gen_ai_operation_name", "gen_ai_request_model")


@dataclass(slots=True)
class Sources:
    """Where the values are. `connections` counts the open ones of clients."""

    engine: Engine
    upstream: Upstream
    lifecycle: Lifecycle
    connections: Callable[[], int] = lambda: 0
    http: Histograms = field(default_factory=lambda: Histograms(HTTP_BOUNDS_S))
    loop_lag: Histograms = field(default_factory=lambda: Histograms(LAG_BOUNDS_S))
    backlog: asyncpg.Record | None = None
    """The answer of `measure_backlog`; None without a database."""
    workers: Counters = field(default_factory=Counters)
    """1 for each worker that gave its metrics, 0 for the others."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric. `is_shared`: it is the same for all workers, so only the one that answers gives it."""

    name: str
    kind: Kind
    help: str
    read: Callable[[Sources], Reading]
    labels: Labels = ()
    is_shared: bool = False


def _counter(name: str, meaning: str, read: Callable[[Sources], Reading], *labels: str) -> Definition:
    return Definition(f"ai_sdk_server_{name}", Kind.COUNTER, meaning, read, labels)


def _gauge(name: str, meaning: str, read: Callable[[Sources], Reading], *, is_shared: bool = False) -> Definition:
    return Definition(f"ai_sdk_server_{name}", Kind.GAUGE, meaning, read, is_shared=is_shared)


def _histogram(name: str, meaning: str, read: Callable[[Sources], Reading], *labels: str) -> Definition:
    return Definition(name, Kind.HISTOGRAM, meaning, read, labels)


def _build(_: Sources) -> Counters:
    build = Counters()
    build.add((__version__,))
    return build


def _upstream(sources: Sources) -> Reading:
    state = sources.engine.upstream_state
    return None if state is None else state.is_ok


DEFINITIONS = (
    _histogram(
        "http_server_request_duration_seconds",
        "Duration of HTTP requests, by route template; creates that wait included.",
        lambda sources: sources.http,
        "http_request_method",
        "http_route",
        "http_response_status_code",
    ),
    _gauge("connections", "Open connections of clients.", lambda sources: sources.connections()),
    _gauge("waiters", "Clients that wait for a request or read its stream.",
           lambda sources: len(sources.engine.subscriptions)),
    _gauge("feeds", "Open streams of all changes of a user.", lambda sources: len(sources.engine.feeds)),
    _counter("generations", "Ended runs of model requests, by task, model and outcome.",
             lambda sources: sources.engine.run_metrics.generations, *_OPERATION, "outcome", "error_type"),
    _histogram("gen_ai_client_operation_duration_seconds", "Duration of calls upstream, with their retries.",
               lambda sources: sources.engine.run_metrics.calls, *_OPERATION, "error_type"),
    _histogram("gen_ai_client_operation_time_to_first_chunk_seconds", "Time from the call upstream to its first text.",
               lambda sources: sources.engine.run_metrics.first_chunks, *_OPERATION),
    _histogram("gen_ai_client_token_usage", "Tokens of a run, as upstream counts them.",
               lambda sources: sources.engine.run_metrics.tokens, *_OPERATION, "gen_ai_token_type"),
    _histogram("ai_sdk_server_overhead_seconds",
               "Time of a run that is not upstream's: from accept or claim to the committed outcome, without the call.",
               lambda sources: sources.engine.run_metrics.overheads),
    _histogram("ai_sdk_server_queue_age_seconds", "Age of a model request when its run starts.",
               lambda sources: sources.engine.run_metrics.ages),
    _gauge("backlog", "Model requests that are due and wait for a slot, of all instances.",
           lambda sources: sources.backlog["waiting"] if sources.backlog else None, is_shared=True),
    _gauge("backlog_oldest_age_seconds", "How long the oldest of them has been due.",
           lambda sources: sources.backlog["oldest_s"] if sources.backlog else None, is_shared=True),
    _gauge("running", "Model requests that run here.", lambda sources: len(sources.engine.workload)),
    _gauge("slots", "Model requests that may run here at once.", lambda sources: sources.engine.slots.capacity),
    _gauge("slots_used", "Slots that are taken.", lambda sources: sources.engine.slots.used),
    _histogram("ai_sdk_server_journal_batch_rows", "Rows in a committed batch of the journal.",
               lambda sources: sources.engine.journal.batch_sizes, "kind"),
    _histogram("ai_sdk_server_journal_flush_seconds", "Time to commit a batch, with repetitions.",
               lambda sources: sources.engine.journal.flush_times, "kind"),
    _gauge("journal_waiting_rows", "Rows that wait for the next batch.",
           lambda sources: sources.engine.journal.waiting_rows),
    _gauge("database_up", "Whether writes are committed and the backlog can be read.",
           lambda sources: sources.engine.has_database),
    _gauge("lease_held", "Whether this instance may act as the owner of its runs.",
           lambda sources: sources.engine.lease.is_trusted),
    _counter("lease_losses", "How often this instance was declared dead while it ran.",
             lambda sources: sources.engine.lease.losses),
    _gauge("instances", "Live instances on this database.", lambda sources: sources.engine.lease.live_instances),
    _gauge("other_file_stores", "Live instances whose files this one cannot read.",
           lambda sources: sources.engine.lease.other_stores),
    _gauge("upstream_up", "Whether the provider answers and accepts the token. Absent until it is known.", _upstream),
    _gauge("breaker_open", "Whether calls upstream are stopped, except probes.",
           lambda sources: sources.upstream.breaker.is_open),
    _counter("upstream_retries", "Repeated attempts of calls upstream, by status or `no_answer`.",
             lambda sources: sources.upstream.retries, "error_type"),
    _histogram("ai_sdk_server_loop_lag_seconds", "How late the event loop runs a timer, measured four times a second.",
               lambda sources: sources.loop_lag),
    _gauge("ready", "Whether this process takes new work: 0 while it starts or stops.",
           lambda sources: sources.lifecycle.phase is Phase.READY),
    Definition("ai_sdk_server_worker_up", Kind.GAUGE, "Whether this worker of the server gave its metrics in time.",
               lambda sources: sources.workers, ("worker",), is_shared=True),
    Definition("ai_sdk_server_build_info", Kind.GAUGE, "Always 1. Its label is the version.", _build, ("version",)),
)  # fmt: skip
