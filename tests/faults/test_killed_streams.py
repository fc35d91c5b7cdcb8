"""kill -9 under those who read a stream: the text is taken back and told anew, and each of them sees one end."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.event_source import EventSource, Told, final_of, joined
from tests.faults.audit import read_rows
from tests.faults.processes import ServerProcess, serving
from tests.faults.upstream import CountingUpstream, reply_to

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""aiohttp's client does not close a socket whose server is killed between accept and first byte."""

READERS = 24
LONGEST_S = 2.4
"""The longest generation: half of its text comes in the middle of that time, the rest at its end."""
SETTINGS = {"CONCURRENCY": str(2 * READERS), "MAX_BACKLOG_PER_USER": "1000"}
_REST_S = 0.05


@dataclass(slots=True)
class Reader:
    """Follows one request to its end at whatever its server is by now, as an EventSource does."""

    session: aiohttp.ClientSession
    server: ServerProcess
    request_id: str
    heard: list[Told] = field(default_factory=list)
    connections: int = 0

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Last-Event-ID": self.heard[-1].id} if self.heard else {}
        url = f"http://127.0.0.1:{self.server.port}/api/requests/{self.request_id}/events"
        async with self.session.get(url, headers=headers) as response:
            yield response

    async def read(self) -> None:
        """To the end of the stream, over as many connections as it takes."""
        while not self.heard or self.heard[-1].name not in {"completed", "failed", "cancelled"}:
            try:
                async with self._open() as response:
                    self.connections += response.status == 200
                    async for told in EventSource(response):
                        self.heard.append(told)
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(_REST_S)

    async def require_end(self) -> None:
        """There is nothing after what it has."""
        async with self._open() as response:
            assert (response.status, await response.read()) == (204, b"")

    @property
    def has_text(self) -> bool:
        return any(told.name == "delta" for told in self.heard)

    @property
    def resets(self) -> int:
        return [told.name for told in self.heard].count("reset")

    def check(self, text: str) -> None:
        final = final_of(self.heard)
        assert (final.name, final.data["output_data"]["output"]) == ("completed", text)
        assert joined(self.heard) == text
        places = [tuple(map(int, told.id.replace("-", ".").split("."))) for told in self.heard]
        assert places == sorted(places), "an id went back"


@asynccontextmanager
async def _signed_in(server: ServerProcess) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {server.token}"}
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        yield session


async def _create(session: aiohttp.ClientSession, server: ServerProcess, prompt: str) -> str:
    body = {"model_type": "text2text", "input_data": {"prompt": prompt}}
    url = f"http://127.0.0.1:{server.port}/api/requests"
    async with session.post(url, json=body, headers={"Prefer": "respond-async"}) as response:
        assert response.status == 202
        return str((await response.json())["id"])


def _delay_s(chance: random.Random) -> Callable[[str], float]:
    """Those of one round are as long as their numbers say: at any moment some have text, and some have ended."""
    return lambda prompt: LONGEST_S * chance.uniform(0.9, 1.0) * (1 + int(prompt.split()[-1])) / READERS


async def _round(
    session: aiohttp.ClientSession,
    number: int,
    *,
    runs: ServerProcess,
    read_at: ServerProcess,
    chance: random.Random,
    upstream: CountingUpstream,
    is_restarted: bool = True,
    timeout_s: float = 60.0,
) -> list[Reader]:
    """Requests that run in one process are read at the same or at another; the first is killed meanwhile."""
    prompts = [f"round {number} request {index}" for index in range(READERS)]
    ids = await asyncio.gather(*(_create(session, runs, prompt) for prompt in prompts))
    readers = [Reader(session, read_at, request_id) for request_id in ids]
    async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.read())
        # Its other half comes after 0.5 s or more, so the kill finds at least one reader with half a text.
        watched = chance.choice(readers[READERS // 2 :])
        while not watched.has_text:  # noqa: ASYNC110 - the text comes from another process
            await asyncio.sleep(_REST_S / 5)
        runs.kill()
        if is_restarted:
            await asyncio.to_thread(runs.start)
    if not is_restarted:
        await asyncio.to_thread(runs.start)
    for reader, prompt in zip(readers, prompts, strict=True):
        await reader.require_end()
        # Told twice is called twice; a call whose outcome was not committed is repeated, too.
        assert upstream.calls[prompt] <= 2
        reader.check(reply_to(prompt, upstream.calls[prompt]))
    return readers


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_who_reads_at_a_killed_process_goes_on_at_its_successor(tmp_path: Path, *, is_soak: bool) -> None:
    rounds, chance = (25 if is_soak else 2), random.Random()  # noqa: S311 - times of kills
    resets = 0
    async with (
        CountingUpstream(delay_s=_delay_s(chance)) as upstream,
        serving(tmp_path / "data", HF_BASE_URL=upstream.url, **SETTINGS) as server,
        _signed_in(server) as session,
    ):
        for number in range(rounds):
            readers = await _round(session, number, runs=server, read_at=server, chance=chance, upstream=upstream)
            resets += sum(reader.resets for reader in readers)
            assert max(reader.connections for reader in readers) >= 2
            assert max(reader.resets for reader in readers) == 1
    print(f"{rounds} kills under {READERS} readers each: {resets} resets, {upstream.calls.total()} calls")


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_who_reads_at_another_instance_stays_and_is_told_anew(
    tmp_path: Path, database: str, *, is_soak: bool
) -> None:
    """In the long form every fourth victim comes back only when the other has taken over what it ran."""
    rounds, chance = (20 if is_soak else 2), random.Random()  # noqa: S311 - times of kills
    resets = 0
    async with CountingUpstream(delay_s=_delay_s(chance)) as upstream:
        settings = {"DATABASE_URL": database, "HF_BASE_URL": upstream.url, **SETTINGS}
        async with (
            serving(tmp_path / "one", **settings) as victim,
            serving(tmp_path / "two", **settings) as other,
            _signed_in(other) as session,
        ):
            for number in range(rounds):
                await _until_mirrored(session, victim, other, number)
                readers = await _round(
                    session,
                    number,
                    runs=victim,
                    read_at=other,
                    chance=chance,
                    upstream=upstream,
                    is_restarted=number % 4 != 3,
                )
                resets += sum(reader.resets for reader in readers)
                assert [reader.connections for reader in readers] == [1] * READERS
                assert max(reader.resets for reader in readers) == 1
            rows = await read_rows(database)
    print(f"{rounds} kills under {READERS} readers each: {resets} resets, {upstream.calls.total()} calls")
    assert {row["status"] for row in rows} == {"completed"}


async def _until_mirrored(
    session: aiohttp.ClientSession, runs: ServerProcess, read_at: ServerProcess, number: int
) -> None:
    """Until a reader at one gets the text of the other in more than one piece: they have found each other."""
    async with asyncio.timeout(30):
        for turn in range(100):
            reader = Reader(session, read_at, await _create(session, runs, f"warm-up {number} {turn} {READERS // 2}"))
            await reader.read()
            if [told.name for told in reader.heard].count("delta") > 1:
                return
