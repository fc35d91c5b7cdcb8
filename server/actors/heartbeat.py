"""Renews the lease of this instance, which covers all its rows, and learns of cancellations and revocations."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import structlog

from server.actors.workload import StopReason, Workload
from server.auth.revocations import Revocation, Revocations
from server.model_request import InstanceId, RequestId
from server.pooling import remedy_for
from server.storage.database import DatabaseAway, DedicatedConnection

RENEW_INTERVAL_S = 5.0
DEAF_INTERVAL_S = 1.0
"""While others live and their hints do not arrive: the renewal is then the way to learn of cancellations."""
RENEW_TIMEOUT_S = 3.0
"""After one renewal without an answer there must be time for the next before the lease runs out."""
LEASE_TTL_S = 15.0
_MARGIN_S = 2.0
_RETRY_INTERVAL_S = 1.0
SHARE_FILES = (
    "Several instances keep files in places of their own, and cannot read each other's: set STORAGE_URL and what "
    "belongs to it to one bucket for all, or mount one volume at DATA_DIR/files."
)

log = structlog.get_logger(__name__)


class Lease:
    """Whether this instance may still act as the owner of what it claimed, by this machine's monotonic clock."""

    def __init__(self, instance_id: InstanceId | None = None) -> None:
        self.instance_id = instance_id or InstanceId(uuid4())
        self.held_since: float | None = None
        self.live_instances = 1
        self.other_stores = 0
        """Number of live instances whose files this one cannot read."""
        self.losses = 0
        """How often this instance was declared dead while it ran."""
        self._trusted_until = 0.0
        self._renewal = asyncio.Event()

    @property
    def is_alone(self) -> bool:
        """Whether no other instance is known."""
        return self.live_instances <= 1

    @property
    def is_trusted(self) -> bool:
        return time.monotonic() < self._trusted_until

    @property
    def may_judge_others(self) -> bool:
        """Whether this instance held a lease for a full TTL. Before that all others may look dead after an outage."""
        return self.is_trusted and self.held_since is not None and time.monotonic() - self.held_since >= LEASE_TTL_S

    def renewed(self, sent_at: float) -> None:
        """Note a renewal that was sent at `sent_at`. The trust counts from then, so a slow reply does not extend it."""
        if not self.is_trusted:
            self.held_since = sent_at
        self._trusted_until = sent_at + LEASE_TTL_S - _MARGIN_S
        self._renewal.set()

    def meet_another(self) -> None:
        """Note another instance that no renewal has counted yet."""
        self.live_instances = max(2, self.live_instances)

    async def wait_trusted(self) -> None:
        """Return once this instance may act. The caller limits the wait."""
        while not self.is_trusted:
            self._renewal.clear()
            await self._renewal.wait()

    def replace(self) -> None:
        """Take a new id, because the old one was declared dead."""
        self.instance_id = InstanceId(uuid4())
        self.held_since = None
        self.losses += 1
        self._trusted_until = 0.0


class Heartbeat:
    """Renews the lease on its own connection, so that no other work can delay it."""

    def __init__(
        self,
        connection: DedicatedConnection,
        *,
        lease: Lease,
        workload: Workload,
        identify_store: Callable[[], Awaitable[str]],
        revocations: Revocations,
        is_heard: Callable[[], bool] = lambda: True,
    ) -> None:
        self._connection = connection
        self._lease = lease
        self._workload = workload
        self._identify_store = identify_store
        self._store = ""
        self._revocations = revocations
        self._wake_up = asyncio.Event()
        self._refreshes: list[asyncio.Future[None]] = []
        self._is_heard = is_heard
        self.has_resigned = False
        """Set at an orderly stop: the lease is not renewed any more."""

    async def register(self) -> None:
        """Take the first lease under the current id, and read what was revoked before."""
        self._store = await self._identify_store()
        sent_at = time.monotonic()
        [news] = await self._connection.fetch(
            "register_instance",
            self._lease.instance_id,
            LEASE_TTL_S,
            socket.gethostname(),
            os.getpid(),
            self._store,
            self._revocations.unread_since,
        )
        self._revoke(news)
        self._lease.renewed(sent_at)

    def wake(self) -> None:
        """Renew at once, because another instance revoked something."""
        self._wake_up.set()

    async def refresh(self) -> None:
        """Return after a renewal that begins now, or after `RENEW_TIMEOUT_S` without one."""
        refreshed = asyncio.get_running_loop().create_future()
        self._refreshes.append(refreshed)
        self.wake()
        await asyncio.wait({refreshed}, timeout=RENEW_TIMEOUT_S)

    async def run(self) -> None:
        is_failing = False
        while not self.has_resigned:
            self._wake_up.clear()
            try:
                await self.beat()
            except DatabaseAway as error:
                if not is_failing:
                    log.warning("lease_renewal_failed", reason=str(error), fix=remedy_for(error))
                is_failing = True
                await asyncio.sleep(_RETRY_INTERVAL_S)
            else:
                is_failing = False
                is_deaf = not self._lease.is_alone and not self._is_heard()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(DEAF_INTERVAL_S if is_deaf else RENEW_INTERVAL_S):
                        await self._wake_up.wait()
        await asyncio.Event().wait()  # until cancelled

    async def beat(self) -> None:
        """Renew once, stop generations that were cancelled or lost, and apply revocations."""
        sent_at = time.monotonic()
        refreshes = list(self._refreshes)
        claims = self._workload.claims()
        [news] = await self._connection.fetch(
            "renew_lease",
            self._lease.instance_id,
            LEASE_TTL_S,
            [request_id for request_id, _ in claims],
            [epoch for _, epoch in claims],
            self._store,
            self._revocations.unread_since,
        )
        self._revoke(news)
        for refreshed in refreshes:
            self._refreshes.remove(refreshed)
            refreshed.set_result(None)
        if not news["is_renewed"] and not self.has_resigned:
            log.warning("lease_lost", instance=str(self._lease.instance_id))
            self._lease.replace()
            await self.register()
            return
        self._lease.renewed(sent_at)
        self._lease.live_instances = max(1, news["live_instances"])
        self._compare_stores(news["other_stores"])
        self._stop(news["cancelled"], StopReason.CANCELLED)
        self._stop(news["lost"], StopReason.LOST)

    def _revoke(self, news: asyncpg.Record) -> None:
        self._revocations.update((Revocation(*row) for row in news["revocations"]), read_at=news["read_at"])

    def _compare_stores(self, others: int) -> None:
        """Log when instances with other file stores appear, and when the last of them is gone."""
        if others and not self._lease.other_stores:
            log.warning("files_not_shared", instances=others, here=self._store, fix=SHARE_FILES)
        elif self._lease.other_stores and not others:
            log.info("files_shared")
        self._lease.other_stores = others

    def _stop(self, ids: list[UUID], reason: StopReason) -> None:
        for request_id in ids:
            if self._workload.stop(RequestId(request_id), reason):
                log.info("generation_stopped", id=str(request_id), reason=reason)

    async def forget(self, instance_id: Any) -> None:
        """Remove an instance that is known to be dead."""
        await self._connection.fetch("delete_instance", instance_id)
