"""Everything that works behind the routes: prepared, run, drained and stopped in order."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import structlog

from server.actors.capacity import Backlog, Slots
from server.actors.feeds import Feeds
from server.actors.generator import Generator
from server.actors.heartbeat import RENEW_TIMEOUT_S, Heartbeat, Lease
from server.actors.journal import Journal
from server.actors.listener import Listener
from server.actors.peer_notifier import PeerNotifier
from server.actors.realtime_broadcaster import RealtimeBroadcaster
from server.actors.run_metrics import RunMetrics
from server.actors.stream_relay import StreamRelay
from server.actors.stream_relay_table import StreamRelayTable
from server.actors.subscriptions import Subscriptions
from server.actors.supervisor import Actor, Supervisor
from server.actors.sweeper import Sweeper
from server.actors.workload import LARGE_ROOM_BYTES, StopReason, Workload
from server.auth.api_keys.key_cache import KeyCache
from server.auth.revocations import Revocations
from server.catalog import Catalog
from server.errors import CannotStart, Unavailable
from server.files.collector import FileCollector
from server.files.request_files import StoredFiles
from server.inference.events import Check, Upstream, UpstreamFault
from server.inference.pricing import Pricing
from server.lifecycle import Lifecycle
from server.limits.shared_rates import SharedRateLimiter
from server.model_request import InstanceId, ModelRequest, RequestId
from server.pooling import Pooling, remedy_for
from server.prices import read_prices
from server.settings import Backend, Settings
from server.storage.database import Database, DatabaseAway, DedicatedConnection, explain_refusal
from server.storage.faults import Fault, classify
from server.storage.objects import Objects
from server.storage.reader import PooledQueries
from server.transcript import Transcript

_PREPARE_BACKOFF_CAP_S = 2.0
_FLUSH_TIMEOUT_S = 10.0
_RESIGN_TIMEOUT_S = 2.0
_STOP_TIMEOUT_S = 5.0
_MOST_LISTENERS = 2
"""Behind a session pooler: the 15 places of the smallest Supabase project hold two instances that listen, or three that
do not, which is what there is while a new version takes over."""
_CONNECTIONS = ("journal", "sweeper", "subscriptions", "broadcaster", "hints", "files", "resignation")

log = structlog.get_logger(__name__)

Preparation = Callable[[], Awaitable[None]]


class Engine:
    """Owns the actors and what they share. Routes get at its parts by their own keys."""

    def __init__(
        self,
        settings: Settings,
        *,
        database: Database,
        reader: PooledQueries,
        upstream: Upstream,
        catalog: Catalog,
        objects: Objects,
        lifecycle: Lifecycle,
        prepare: Preparation,
        predecessors: Sequence[InstanceId] = (),
        instance_id: InstanceId | None = None,
        listening: Database | None = None,
        revocations: Revocations | None = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._reader = reader
        self._prepare = prepare
        self._predecessors = predecessors
        self._upstream = upstream
        self._pricing = Pricing({} if settings.prices is None else read_prices(settings.prices), upstream.known_listing)
        self._checks_upstream = settings.backend is not Backend.OFFLINE
        self._upstream_check: Check | None = None
        self._upstream_checked_at = 0.0
        self.task: asyncio.Task[None] | None = None

        self.queue: asyncio.Queue[ModelRequest] = asyncio.Queue(maxsize=settings.concurrency)
        self.slots = Slots(settings.concurrency, limit=lambda: upstream.breaker.limit)
        self.backlog = Backlog()
        self.workload = Workload(max(LARGE_ROOM_BYTES, 2 * settings.max_body_mb * 1024 * 1024))
        self.lease = Lease(instance_id)
        self.run_metrics = RunMetrics(catalog.all_models())
        self._connections = _connections_to(database)

        self.journal = Journal(self._connections["journal"], lease=self.lease)
        self.collector = FileCollector(self._connections["files"], objects=objects, lease=self.lease)
        self.request_files = StoredFiles(self._connections["files"], objects, wake=self.collector.wake)
        self.rates = SharedRateLimiter(
            "create", settings.rate_limit_per_minute, reader=reader, instances=lambda: self.lease.live_instances
        )
        self._hints = PeerNotifier(self._connections["hints"], lease=self.lease)
        broadcaster = RealtimeBroadcaster(self._connections["broadcaster"]) if settings.supabase_url else None
        on_change = self._hints.changed if broadcaster is None else _both(self._hints.changed, broadcaster.notify)
        self.subscriptions = Subscriptions(self._connections["subscriptions"], on_change=on_change)
        self.feeds = Feeds(self._connections["subscriptions"])
        self.key_cache = KeyCache(self._connections["subscriptions"])
        self._relay = StreamRelay(self._hints, lease=self.lease, find_run=self.workload.find_transcript)
        self._listener = self._create_listener(database, listening)
        revocations = revocations or Revocations()
        self._heartbeat = Heartbeat(
            self._connections["heartbeat"],
            lease=self.lease,
            workload=self.workload,
            identify_store=objects.identify,
            is_heard=lambda: self._listener.is_heard,
            revocations=revocations,
        )
        revocations.publish = self._publish_revocations
        self._sweeper = self._create_sweeper(settings, on_change)
        upstream.breaker.watch(self._sweeper.wake)
        actors: dict[str, Actor] = {
            "journal": self.journal,
            "heartbeat": self._heartbeat,
            "subscriptions": self.subscriptions,
            "feeds": self.feeds,
            "key-cache": self.key_cache,
            "hints": self._hints,
            "listener": self._listener,
            "relay": self._relay,
            "relay-table": self._create_relay_table(),
            "sweeper": self._sweeper,
            "collector": self.collector,
            "reader": reader,
            "rates": self.rates,
            **({} if broadcaster is None else {"broadcaster": broadcaster}),
        }
        for number in range(settings.concurrency):
            actors[f"generator-{number}"] = self._create_generator(catalog)
        self._supervisor = Supervisor(actors)

    def _create_listener(self, database: Database, listening: Database | None) -> Listener:
        is_limited = database.pooling is Pooling.SESSION and listening is database
        return Listener(
            None if listening is None else listening.connect,
            lease=self.lease,
            hints=self._hints,
            most_instances=_MOST_LISTENERS if is_limited else None,
            handlers={
                "changed": self._on_changes,
                "cancel": self._on_cancel,
                "backlog": self.backlog.hint,
                "key": self._on_key,
                "revoked": self._on_revoked,
                "follow": self._relay.send_to,
                "text": self._relay.take_text,
            },
        )

    def _create_relay_table(self) -> StreamRelayTable:
        return StreamRelayTable(
            self._connections["hints"],
            lease=self.lease,
            workload=self.workload,
            relay=self._relay,
            is_heard=lambda: self._listener.is_heard,
        )

    def _create_sweeper(self, settings: Settings, on_change: Callable[[RequestId], None]) -> Sweeper:
        return Sweeper(
            self._connections["sweeper"],
            queue=self.queue,
            lease=self.lease,
            slots=self.slots,
            backlog=self.backlog,
            workload=self.workload,
            retention_days=settings.retention_days,
            upstream_outage=lambda: self._upstream.breaker.outage,
            on_change=on_change,
        )

    def _create_generator(self, catalog: Catalog) -> Generator:
        return Generator(
            self.queue,
            upstream=self._upstream,
            catalog=catalog,
            journal=self.journal,
            subscriptions=self.subscriptions,
            feeds=self.feeds,
            workload=self.workload,
            slots=self.slots,
            lease=self.lease,
            files=self.request_files,
            metrics=self.run_metrics,
            pricing=self._pricing,
        )

    def find_transcript(self, request_id: RequestId, epoch: int) -> Transcript | None:
        """The growing text of a run, where it is to be had here."""
        return self.workload.find_transcript(request_id, epoch) or self._relay.find(request_id, epoch)

    def cancel(self, request_id: RequestId, owner: InstanceId) -> None:
        """Have the owner of a run stop it, be it this instance or another."""
        if not self.workload.stop(request_id, StopReason.CANCELLED) and owner != self.lease.instance_id:
            self._hints.notify(owner, "cancel", request_id)

    def announce_backlog(self) -> None:
        """For instances with free slots."""
        self._hints.notify_all("backlog")

    def recheck_keys(self, subject: UUID) -> None:
        """Have all instances check an API key, or all keys of a user, before they accept them once more."""
        self.key_cache.recheck(subject)
        self._hints.notify_all("key", subject)

    def _on_key(self, subject: str) -> None:
        self.key_cache.recheck(UUID(subject))

    async def _publish_revocations(self) -> None:
        self._hints.notify_all("revoked")
        await self._heartbeat.refresh()

    def _on_revoked(self) -> None:
        self._heartbeat.wake()

    def _on_changes(self, ids: list[str]) -> None:
        self.subscriptions.refresh(RequestId(UUID(text)) for text in ids)
        self.feeds.wake()

    def _on_cancel(self, request_id: str) -> None:
        self.workload.stop(RequestId(UUID(request_id)), StopReason.CANCELLED)

    def start(self) -> None:
        """Run in a task of its own; `task` ends only by `stop`, or with the error that ended it."""
        self.task = asyncio.create_task(self.run(), name="engine")

    async def stop(self) -> None:
        """Cancel the actors and drop their connections; what they hold is rescued, unless `drain` came first."""
        self._lifecycle.stop()
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=_STOP_TIMEOUT_S)
        for connection in self._connections.values():
            connection.terminate()

    async def run(self) -> None:
        """Prepare the database, however long that takes, then run the actors until cancelled.

        Raises `CannotStart` when waiting will not help, `ActorFailed` (in a group) when an actor keeps crashing.
        """
        await self._begin_patiently()
        self._lifecycle.ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._supervisor.run(), name="supervisor")
            if self._checks_upstream:
                group.create_task(self._check_upstream(), name="upstream-check")

    async def _begin(self) -> None:
        """The schema, our place among the instances, and the connections without which no create would succeed.

        Rows of dead predecessors are rescued without waiting for their leases.
        """
        await self._prepare()
        for predecessor in self._predecessors:
            await self._heartbeat.forget(predecessor)
            self._sweeper.add_dead_instance(predecessor)
            self.collector.add_dead_instance(predecessor)
        await self._heartbeat.register()
        await self._connections["sweeper"].open()
        await self._reader.check()
        await self.journal.check()

    @property
    def has_database(self) -> bool:
        """Whether a create would be stored and started now: the last write succeeded, and the backlog can be seen."""
        return self.journal.is_ready and not self._sweeper.is_away

    async def _begin_patiently(self) -> None:
        tries = 0
        while True:
            try:
                await self._begin()
                return
            except Exception as error:
                if (refusal := explain_refusal(error)) is not None:
                    raise CannotStart(refusal) from error
                if not isinstance(error, (DatabaseAway, Unavailable)) and classify(error) is not Fault.AWAY:
                    raise
                cause = error.__cause__ or error
                reason, remedy = f"{type(cause).__name__}: {cause}", remedy_for(cause)
            tries += 1
            self._lifecycle.reason = "the database cannot be used yet"
            log.warning("database_not_ready", reason=reason, tries=tries, fix=remedy)
            await asyncio.sleep(random.uniform(0.5, 1) * min(_PREPARE_BACKOFF_CAP_S, 0.1 * 2**tries))  # noqa: S311

    @property
    def upstream_state(self) -> Check | None:
        """The last known state of the upstream. None before the first check, and for the offline double."""
        if (outage := self._upstream.breaker.outage) is not None:
            return Check(UpstreamFault.UNREACHABLE, f"It does not answer. {outage}")
        if (check := self._upstream_check) is None or check.fault is not UpstreamFault.UNREACHABLE:
            return check
        has_answered_since = self._upstream.breaker.answered_at > self._upstream_checked_at
        return Check(None, "It answers.") if has_answered_since else check

    async def _check_upstream(self) -> None:
        """Once, after readiness: what is wrong with the token or the model is named where people look for it."""
        check = self._upstream_check = await self._upstream.check()
        self._upstream_checked_at = time.monotonic()
        if check.is_ok:
            log.info("upstream_ok", detail=check.detail)
        else:
            log.warning("upstream_fault", fault=check.fault, detail=check.detail)

    async def drain(self, *, timeout_s: float, hurry: asyncio.Event) -> bool:
        """Take nothing new, let what runs come to its end, hand back the rest. True if everything was written.

        Waiters stay connected until the drain is over: a client treats an answer that is not final as a failure.
        Setting `hurry` ends the waiting at once.
        """
        self._lifecycle.drain()
        self._sweeper.is_stopped = True
        log.info("draining", running=len(self.workload), waiting=len(self.subscriptions), timeout_s=timeout_s)
        idle = asyncio.create_task(self.slots.wait_idle(), name="drain-idle")
        hurried = asyncio.create_task(hurry.wait(), name="drain-hurry")
        try:
            await asyncio.wait({idle, hurried}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.cancel()
            hurried.cancel()
        self.subscriptions.close()
        self.feeds.close()
        if handed_back := self.workload.stop_all(StopReason.SHUTDOWN):
            log.info("handing_back", requests=handed_back)
        self._sweeper.release_waiting()
        try:
            async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                await self.slots.wait_idle()
                await self.journal.wait_flushed()
        except TimeoutError:
            log.warning("not_flushed", running=self.slots.used)
            return False
        return True

    async def resign(self) -> None:
        """Give up the lease, so that others need not wait for it to run out; nothing to give up is fine."""
        self._heartbeat.has_resigned = True
        if self.lease.held_since is None:
            return
        try:
            async with asyncio.timeout(_RESIGN_TIMEOUT_S):
                await self._connections["resignation"].fetch("delete_instance", self.lease.instance_id)
        except (DatabaseAway, TimeoutError):
            log.info("lease_left_to_expire")


def _connections_to(database: Database) -> dict[str, DedicatedConnection]:
    """The actors' connections by their names.

    Feeds and API keys share one with subscriptions, the relay's table with the hints, and files have one. A session
    pooler has few places: behind it all actors share one connection, except the journal and the heartbeat.
    """
    shared = DedicatedConnection(database.connect)
    is_pooled = database.pooling is Pooling.SESSION
    connections = {
        name: shared if is_pooled and name != "journal" else DedicatedConnection(database.connect)
        for name in _CONNECTIONS
    }
    connections["heartbeat"] = DedicatedConnection(
        database.connect, timeout_s=RENEW_TIMEOUT_S, on_silence=database.note_silence
    )
    return connections


def _both(one: Callable[[RequestId], None], other: Callable[[RequestId], None]) -> Callable[[RequestId], None]:
    def notify(request_id: RequestId) -> None:
        one(request_id)
        other(request_id)

    return notify
