"""Sends hints to other instances, off the write path: many in one NOTIFY, a few milliseconds after the first.

A lost hint costs time, never a request. NOTIFY takes a lock that is global in a database, so it is never part of a
transaction that a client waits for.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any

import structlog

from server.actors.heartbeat import Lease
from server.encoding import dumps
from server.model_request import InstanceId, RequestId
from server.storage.database import DatabaseAway, DedicatedConnection

EVERYONE = "ai_sdk"
"""The channel that every instance listens to. Each also has a channel of its own."""
PAUSE_S = 0.005
MAX_PAYLOAD_BYTES = 7_900
"""Postgres takes less than 8,000 (NOTIFY, "payload string")."""
PAYLOADS_AT_ONCE = 200
MAX_WAITING = 5_000
"""Messages. Beyond that the oldest are dropped."""
MAX_CHANGED = 20_000
IDS_PER_HINT = 150
_AROUND = len("[,]")
_RETRY_S = 1.0

log = structlog.get_logger(__name__)


def channel_of(instance_id: InstanceId) -> str:
    return f"{EVERYONE}_{instance_id.hex}"


class PeerNotifier:
    """Sends nothing while no other instance lives."""

    def __init__(self, connection: DedicatedConnection, *, lease: Lease) -> None:
        self._connection = connection
        self._lease = lease
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=MAX_WAITING)
        self._changed: dict[RequestId, None] = {}
        self._news = asyncio.Event()

    def notify(self, instance_id: InstanceId, *message: Any) -> None:
        """Send a message to one instance."""
        self._post(channel_of(instance_id), message)

    def notify_all(self, *message: Any) -> None:
        """Send a message to all instances."""
        self._post(EVERYONE, message)

    def changed(self, request_id: RequestId) -> None:
        """Tell all instances that this request changed."""
        if not self._lease.is_alone and len(self._changed) < MAX_CHANGED:
            self._changed[request_id] = None
            self._news.set()

    def _post(self, channel: str, message: tuple[Any, ...]) -> None:
        if not self._lease.is_alone:
            self._waiting.append((channel, dumps(message)))
            self._news.set()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(PAUSE_S)
            self._news.clear()
            try:
                await self._flush()
            except DatabaseAway as error:
                log.debug("hints_dropped", reason=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _flush(self) -> None:
        changed, self._changed = list(self._changed), {}
        for start in range(0, len(changed), IDS_PER_HINT):
            self.notify_all("changed", changed[start : start + IDS_PER_HINT])
        waiting, self._waiting = self._waiting, deque(maxlen=MAX_WAITING)
        payloads = self._payloads(waiting)
        while batch := list(itertools.islice(payloads, PAYLOADS_AT_ONCE)):
            channels, texts = zip(*batch, strict=True)
            await self._connection.fetch("notify_instances", channels, texts)

    def _payloads(self, waiting: deque[tuple[str, bytes]]) -> Iterator[tuple[str, str]]:
        """Messages in their order, as many in one payload as fit. A message that can never fit is dropped."""
        sender = dumps(self._lease.instance_id)
        by_channel: dict[str, list[bytes]] = {}
        for channel, message in waiting:
            by_channel.setdefault(channel, []).append(message)
        for channel, messages in by_channel.items():
            pack, size = [sender], len(sender)
            for message in messages:
                if len(sender) + len(message) + _AROUND > MAX_PAYLOAD_BYTES:
                    log.warning("hint_too_long", bytes=len(message))
                    continue
                if size + len(message) + len(pack) + 2 > MAX_PAYLOAD_BYTES:
                    yield channel, _joined(pack)
                    pack, size = [sender], len(sender)
                pack.append(message)
                size += len(message)
            if len(pack) > 1:
                yield channel, _joined(pack)


def _joined(pack: list[bytes]) -> str:
    return (b"[" + b",".join(pack) + b"]").decode()
