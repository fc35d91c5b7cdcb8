"""Relays text by a table where hints do not arrive: readers request it there and owners store it, twice a second."""

import asyncio
from collections.abc import Callable

import orjson
import structlog

from server.actors.heartbeat import Lease
from server.actors.stream_relay import StreamRelay
from server.actors.workload import Workload
from server.encoding import dumps
from server.model_request import RequestId
from server.storage.database import DatabaseAway, DedicatedConnection
from server.transcript import START

INTERVAL_S = 0.5
WANTED_FOR_S = 5.0
_WHOLE = 2**31

log = structlog.get_logger(__name__)


class StreamRelayTable:
    """Does nothing while this instance is alone, or receives hints."""

    def __init__(
        self,
        connection: DedicatedConnection,
        *,
        lease: Lease,
        workload: Workload,
        relay: StreamRelay,
        is_heard: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._lease = lease
        self._workload = workload
        self._relay = relay
        self._is_heard = is_heard
        self._left: dict[RequestId, int] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            if self._lease.is_alone or self._is_heard():
                continue
            try:
                await self.read()
                await self.write()
            except DatabaseAway as error:
                log.debug("relay_skipped", reason=str(error))

    async def read(self) -> None:
        """Request the texts that have readers here, and take what is stored of them."""
        mirrors = self._relay.wanted()
        if not mirrors:
            return
        rows = await self._connection.fetch(
            "request_transcripts", [item[0] for item in mirrors], [item[1] for item in mirrors], WANTED_FOR_S
        )
        for row in rows:
            start = 0
            for run, (segment, number, name, text) in enumerate(orjson.loads(row["runs"])):
                self._relay.take_text(str(row["request_id"]), row["epoch"], start, run, segment, number, name, text)
                start += len(text)

    async def write(self) -> None:
        """Store the requested texts of runs here, if they have grown."""
        claims = self._workload.claims()
        if not claims:
            return
        rows = await self._connection.fetch(
            "list_requested_transcripts", [item[0] for item in claims], [item[1] for item in claims]
        )
        ids, epochs, texts, left = [], [], [], dict[RequestId, int]()
        for row in rows:
            request_id, epoch = RequestId(row["request_id"]), row["epoch"]
            transcript = self._workload.find_transcript(request_id, epoch)
            if transcript is None:
                continue
            left[request_id] = transcript.length
            if self._left.get(request_id) != transcript.length:
                parts = transcript.since(START, limit=_WHOLE)
                ids.append(request_id)
                epochs.append(epoch)
                texts.append(dumps([[part.segment, part.number, part.name, part.text] for part in parts]))
        if ids:
            await self._connection.fetch("store_transcripts", ids, epochs, texts)
        self._left = left
