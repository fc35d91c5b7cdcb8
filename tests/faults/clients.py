"""Clients that never come back: each sends requests, notes what it was told, and repeats nothing whatever happens."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults.processes import ServerProcess

GONE = 0
"""In place of a status: the connection ended without an answer."""
_REST_S = 0.02
_REST_REFUSED_S = 0.5
"""After a create that was refused, or came to nothing."""
_TIMEOUT_S = 100.0


@dataclass(slots=True)
class Told:
    """One request, and the last that its client heard of it."""

    prompt: str
    waits: bool
    """Whether the create itself waits for the outcome."""
    key: str | None = None
    """Sent as `Idempotency-Key`."""
    status: int | None = None
    """Of the answer to the create: None while it is awaited, GONE when none came."""
    retry_after: str | None = None
    item: dict[str, Any] = field(default_factory=dict)
    """The model request as last seen by the client."""
    polled: int | None = None
    """The status of the answer to its long-poll, where it sent one."""

    @property
    def is_acknowledged(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def id(self) -> str:
        return str(self.item["id"])


@dataclass(slots=True)
class Clients:
    """One signed-in user's clients of a server process, and the log of what they were told."""

    server: ServerProcess
    told: list[Told] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def acknowledged(self) -> list[Told]:
        return [told for told in self.told if told.is_acknowledged]

    @property
    def statuses(self) -> Counter[int | None]:
        """How often each status answered a create."""
        return Counter(told.status for told in self.told)

    @contextlib.asynccontextmanager
    async def in_flight(self, count: int, *, pace_s: float = _REST_S) -> AsyncIterator[None]:
        """Keep so many requests in flight for the time of the block, half of them awaited in the create itself.

        The other half is acknowledged at once and then long-polled. `pace_s` is the rest of a client after each answer.
        """
        async with self._session() as session:
            runs = [
                asyncio.create_task(self._keep_sending(session, waits=bool(number % 2), pace_s=pace_s))
                for number in range(count)
            ]
            try:
                yield
            finally:
                for run in runs:
                    run.cancel()
                results = await asyncio.gather(*runs, return_exceptions=True)
        early = [result for result in results if not isinstance(result, asyncio.CancelledError)]
        assert not early, "a client ended early"

    async def send(
        self,
        count: int,
        *,
        waits: bool = False,
        polls: bool = False,
        has_key: bool = False,
        prompt: str = "prompt",
        at_once: int = 50,
    ) -> list[Told]:
        """Send so many requests and return when each is answered, and its long-poll too if it `polls`."""
        limit = asyncio.Semaphore(at_once)
        async with self._session() as session:

            async def send_one() -> Told:
                async with limit:
                    told = self._note(prompt, waits=waits)
                    told.key = told.prompt if has_key else None
                    await self._create(session, told)
                    if polls and told.is_acknowledged:
                        await self._poll(session, told)
                    return told

            return await asyncio.gather(*(send_one() for _ in range(count)))

    async def repeat(self, told: Told) -> Told:
        """Send the same request again, under the same key, as a client does that does not know what became of it."""
        again = Told(told.prompt, told.waits, told.key)
        self.told.append(again)
        async with self._session() as session:
            await self._create(session, again)
        return again

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            f"http://127.0.0.1:{self.server.port}",
            headers={"Authorization": f"Bearer {self.server.token}"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(_TIMEOUT_S),
        )

    def _note(self, prompt: str, *, waits: bool) -> Told:
        told = Told(f"{prompt} {next(self._numbers)}", waits)
        self.told.append(told)
        return told

    async def _keep_sending(self, session: aiohttp.ClientSession, *, waits: bool, pace_s: float) -> None:
        while True:
            told = self._note("prompt", waits=waits)
            await self._create(session, told)
            if told.is_acknowledged and not waits:
                await self._poll(session, told)
            await asyncio.sleep(pace_s if told.is_acknowledged else _REST_REFUSED_S)

    async def _create(self, session: aiohttp.ClientSession, told: Told) -> None:
        body = {"model_type": "text2text", "input_data": {"prompt": told.prompt}}
        headers = {"Prefer": "wait=90" if told.waits else "respond-async"}
        if told.key is not None:
            headers["Idempotency-Key"] = told.key
        try:
            async with session.post("/api/requests", json=body, headers=headers) as response:
                item = await response.json()
                told.retry_after = response.headers.get("Retry-After")
                told.item = item
                told.status = response.status
        except (aiohttp.ClientError, ConnectionError):
            told.status = GONE

    async def _poll(self, session: aiohttp.ClientSession, told: Told) -> None:
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            async with session.get(f"/api/requests/{told.id}", params={"wait": "60"}) as response:
                item = await response.json()
                told.polled = response.status
                if response.status == 200:
                    told.item = item
