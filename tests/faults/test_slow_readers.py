"""Readers that stop reading cost nobody anything: not the generation, not the others, not the memory of the server."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from tests.fakes.huggingface import event
from tests.faults.processes import ServerProcess, serving

PIECES, PIECE = 600, "0123456789" * 1000
TEXT_BYTES = PIECES * len(PIECE)
STALLED = 40
MIB = 1024 * 1024
DRAIN_S, CLOSE_S = 1.0, 10.0
"""How long a stop waits for generations, and then for connections that take nothing (twice five seconds)."""
PER_READER_BYTES = 1024 * 1024
"""What a reader that does not read may cost: pieces of 64 KiB in several hands on their way to it (0.8 MiB measured). A
copy of the text would be six times as much."""


@asynccontextmanager
async def _long_winded() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A model provider whose answer has six million characters, sent at once when the event is set."""
    may_speak = asyncio.Event()

    async def complete(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(event({"choices": [{"index": 0, "delta": {"content": "begin "}}]}))
        await may_speak.wait()
        for _ in range(PIECES):
            await response.write(event({"choices": [{"index": 0, "delta": {"content": PIECE}}]}))
        await response.write(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", may_speak
    finally:
        await runner.cleanup()


class Stalled:
    """A connection that asked for a stream, and whose receive buffer is small: the server is soon stuck with it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, server: ServerProcess, request_id: str) -> "Stalled":
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=4096)
        head = (
            f"GET /api/requests/{request_id}/events HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {server.token}\r\n\r\n"
        )
        writer.write(head.encode())
        await reader.readuntil(b'"begin "')
        return cls(reader, writer)

    async def read_on(self) -> int:
        """Read to the end of the stream; how many of the text's pieces came."""
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += await self._reader.read(MIB)
        assert data.count(b"event: completed") == 1
        deltas = data.partition(b"event: completed")[0]
        return sum(len(digits) for digits in re.findall(rb'"text":"([0-9]+)"', deltas))

    async def rest(self) -> bytes:
        """Whatever comes until the connection is closed."""
        return await self._reader.read()

    def close(self) -> None:
        self._writer.close()


@pytest.mark.timeout(150)
async def test_readers_that_stop_reading(tmp_path: Path, is_soak: bool) -> None:  # noqa: FBT001
    async with (
        _long_winded() as (url, may_speak),
        serving(tmp_path / "data", HF_BASE_URL=url, TEXT_MODELS="org/model") as server,
    ):
        assert server.process is not None
        memory = psutil.Process(server.process.pid).memory_info
        _, created = await asyncio.to_thread(server.create, "tell me")
        stalled = [await Stalled.open(server, created["id"]) for _ in range(STALLED)]
        before = memory().rss
        may_speak.set()
        _, final = await asyncio.to_thread(server.call, "GET", f"/api/requests/{created['id']}?wait=60")
        assert len(final["output_data"]["output"]) == TEXT_BYTES + len("begin ")
        after = peak = memory().rss
        for _ in range(60 if is_soak else 3):
            await asyncio.sleep(1)
            peak = max(peak, memory().rss)
        print(
            f"RSS {before / MIB:.0f} MiB before the text, {after / MIB:.0f} when it was there, "
            f"at most {peak / MIB:.0f} while {STALLED} readers did not read"
        )
        assert peak - after < 4 * MIB
        assert peak - before < 8 * TEXT_BYTES + STALLED * PER_READER_BYTES
        assert await asyncio.gather(*(reader.read_on() for reader in stalled)) == [TEXT_BYTES] * STALLED
        print(f"RSS {memory().rss / MIB:.0f} MiB when all had read on")
        assert memory().rss - before < 12 * TEXT_BYTES + STALLED * PER_READER_BYTES
        for reader in stalled:
            reader.close()


@pytest.mark.timeout(60)
async def test_readers_that_do_not_read_hold_up_no_stop(tmp_path: Path, *, patience: float) -> None:
    """Who listens is told to come back, the others are cut off."""
    async with (
        _long_winded() as (url, may_speak),
        serving(tmp_path / "data", HF_BASE_URL=url, TEXT_MODELS="org/model", DRAIN_S=str(DRAIN_S)) as server,
    ):
        _, running = await asyncio.to_thread(server.create, "tell me")
        stalled = [await Stalled.open(server, running["id"]) for _ in range(3)]
        may_speak.set()
        await asyncio.to_thread(server.call, "GET", f"/api/requests/{running['id']}?wait=60")
        may_speak.clear()
        _, unfinished = await asyncio.to_thread(server.create, "tell me more")
        listening = await Stalled.open(server, unfinished["id"])
        server.signal(signal.SIGTERM)
        began = time.monotonic()
        assert b"retry: 1000" in await listening.rest()
        drained_s = time.monotonic() - began
        await server.wait_logged('"event":"stopped"')
        handed_back_s = time.monotonic() - began
        assert await asyncio.to_thread(server.wait) == 0
        ended_s = time.monotonic() - began
        for reader in (*stalled, listening):
            reader.close()
    print(f"listeners went after {drained_s:.1f} s, the lease after {handed_back_s:.1f} s, the process {ended_s:.1f} s")
    assert max(drained_s, handed_back_s) < DRAIN_S + patience
    assert ended_s < DRAIN_S + CLOSE_S + 2 * patience
