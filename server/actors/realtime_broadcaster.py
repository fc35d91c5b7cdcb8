"""Sends changes of requests to Supabase Realtime in batches, outside the write path."""

import asyncio

import structlog

from server.model_request import RequestId
from server.storage.database import DatabaseAway, DedicatedConnection

PAUSE_S = 0.05
"""Pause before each batch. A request that changes twice in it is sent once."""
BATCH = 500
MAX_WAITING = 10_000
"""Beyond that the oldest are dropped. Clients can always read the request itself."""
_RETRY_S = 2.0

log = structlog.get_logger(__name__)


class RealtimeBroadcaster:
    """Holds ids only. A message contains the row as it is when the message is sent."""

    def __init__(self, connection: DedicatedConnection) -> None:
        self._connection = connection
        self._waiting: dict[RequestId, None] = {}
        self._news = asyncio.Event()
        self._forgotten = 0

    def notify(self, request_id: RequestId) -> None:
        """Report a change of this request; never blocks."""
        self._waiting.pop(request_id, None)
        self._waiting[request_id] = None
        if len(self._waiting) > MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
            self._forgotten += 1
        self._news.set()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._flush()
            except DatabaseAway as error:
                log.debug("broadcast_skipped", reason=str(error))
                self._news.set()
                await asyncio.sleep(_RETRY_S)

    async def _flush(self) -> None:
        while self._waiting:
            await asyncio.sleep(PAUSE_S)
            batch = list(self._waiting)[:BATCH]
            for request_id in batch:
                del self._waiting[request_id]  # before the statement: a change during it is sent again
            try:
                await self._connection.fetch("broadcast_requests", batch)
            except DatabaseAway:
                self._waiting = dict.fromkeys(batch) | self._waiting
                raise
        if self._forgotten:
            log.warning("broadcasts_forgotten", count=self._forgotten)
            self._forgotten = 0
