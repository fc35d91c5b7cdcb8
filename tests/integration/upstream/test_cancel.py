"""Leaving a generation closes its connection at once, in whatever phase it is, on both event loops."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.inference.events import Call, Event, InputFile, Started
from server.inference.huggingface import HuggingFace
from server.inference.protocol import FilePart, OpenReader, WireRequest, reader_for
from tests.fakes.huggingface import chat_answer
from tests.fakes.raw_upstream import Peer, RawUpstream
from tests.fakes.stubborn_tls import answer, make_certificate
from tests.integration.upstream.generations import MODELS, call
from tests.integration.upstream.readers import follow_up_reader
from tests.signals import until, until_still

AT_ONCE_S = 0.1
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n" + b'{"error":"loading"'


class Uploading(HuggingFace):
    """Sends a file that is as long as it takes."""

    sent = 0

    async def stalls(self) -> None:
        """Until nothing more goes out: what the kernel takes is full, and what the loop keeps is too."""
        await until_still(lambda: self.sent, pause_s=0.05)

    async def _prepare(
        self, call: Call, model: str | None, timeout_s: float
    ) -> tuple[str | None, WireRequest, OpenReader]:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                self.sent += 1
                yield b"x" * 65536

        file = FilePart(InputFile("image/png", 10**9, chunks))
        return model, WireRequest("POST", f"{self._base_url}/v1/upload", {}, (file,)), reader_for(call, model)


class Polling(HuggingFace):
    """Its answers ask for another request, after a pause."""

    async def _prepare(
        self, call: Call, model: str | None, timeout_s: float
    ) -> tuple[str | None, WireRequest, OpenReader]:
        wire = WireRequest("GET", f"{self._base_url}/job", {})
        return model, wire, follow_up_reader(lambda: wire, pause_s=0.01)


def connect(url: str, kind: type[HuggingFace] = HuggingFace) -> HuggingFace:
    return kind(base_url=url, token=None, timeout_s=20, max_retries=3, connections=4)


async def ignore(peer: Peer) -> None:
    await peer.read_to_end()


async def take(peer: Peer) -> None:
    await peer.read_request()
    await peer.read_to_end()


async def begin(peer: Peer) -> None:
    await peer.read_request()
    await peer.send(HEAD)
    for piece in chat_answer("a").pieces[:2]:
        await peer.send_chunk(piece)
    await peer.read_to_end()


async def poll(peer: Peer) -> None:
    for _ in range(3):
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.")
    await peer.read_request()
    await peer.read_to_end()


async def leave(events: Any, ready: Callable[[], Awaitable[Any]]) -> None:
    """Run a generation in a task until it is `ready`, and cancel it there."""

    async def run() -> list[Event]:
        async with contextlib.aclosing(events):
            return [event async for event in events]

    generation = asyncio.create_task(run())
    await ready()
    generation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await generation


def head_of(upstream: RawUpstream) -> Callable[[], Awaitable[None]]:
    async def ready() -> None:
        await upstream.connected.wait()
        await upstream.peers[-1].wait_requests(1)

    return ready


async def closed(port: int) -> None:
    """Until this process has no connection to it any more."""
    await until(
        lambda: (
            not any(
                one.raddr and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
                for one in psutil.Process().net_connections("tcp")
            )
        )
    )


async def test_while_the_connection_is_made(patience: float) -> None:
    async with RawUpstream(ignore) as upstream:
        client = connect(upstream.url.replace("http:", "https:"))  # the handshake is never answered
        await leave(client.generate(call(), timeout_s=30), upstream.connected.wait)
        async with asyncio.timeout(AT_ONCE_S * patience):
            await upstream.left.wait()
        await client.close()


async def test_while_the_answer_is_awaited(patience: float) -> None:
    async with RawUpstream(take) as upstream:
        client = connect(upstream.url)
        await leave(client.generate(call(), timeout_s=30), head_of(upstream))
        async with asyncio.timeout(AT_ONCE_S * patience):
            await upstream.left.wait()
        await client.close()


@pytest.mark.parametrize("count", [1, 2], ids=["after the start", "after a delta"])
async def test_between_two_events(count: int, patience: float) -> None:
    async with RawUpstream(begin) as upstream:
        client = connect(upstream.url)
        events = client.generate(call(), timeout_s=30)
        for _ in range(count):
            await anext(events)
        await events.aclose()
        async with asyncio.timeout(AT_ONCE_S * patience):
            await upstream.left.wait()
        await client.close()


async def test_a_peer_that_ignores_the_end_of_tls_is_left_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    certificate = make_certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in chat_answer("a").pieces[:2])
    async with RawUpstream(lambda peer: answer(peer, certificate, HEAD + chunks)) as upstream:
        client = connect(upstream.url.replace("http:", "https:"))
        events = client.generate(call(), timeout_s=30)
        assert await anext(events) == Started(MODELS[0])
        await events.aclose()
        async with asyncio.timeout(AT_ONCE_S * patience):
            await upstream.left.wait()
        await client.close()


async def test_while_the_next_delta_is_awaited(patience: float) -> None:
    async with RawUpstream(begin) as upstream:
        client = connect(upstream.url)
        events = client.generate(call(), timeout_s=30)
        assert await anext(events) == Started(MODELS[0])
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(AT_ONCE_S * patience):
            await upstream.left.wait()
        await client.close()


async def test_while_a_body_is_uploaded(patience: float) -> None:
    go = asyncio.Event()

    async def read_slowly(peer: Peer) -> None:
        await peer.read_head()
        await go.wait()
        await peer.read_to_end()

    async with RawUpstream(read_slowly) as upstream:
        client = Uploading(base_url=upstream.url, token=None, timeout_s=20, max_retries=3, connections=4)
        await leave(client.generate(call(), timeout_s=30), client.stalls)
        async with asyncio.timeout(AT_ONCE_S * patience):
            await closed(upstream.port)  # what is buffered for a peer that takes nothing must not keep it open
            go.set()
            await upstream.left.wait()
        assert len(upstream.peers[0].body) < 50_000_000
        await client.close()


async def test_while_a_job_is_polled(patience: float) -> None:
    async with RawUpstream(poll) as upstream:
        client = connect(upstream.url, Polling)

        async def ready() -> None:
            await upstream.connected.wait()
            await upstream.peers[0].wait_requests(4)

        await leave(client.generate(call(), timeout_s=30), ready)
        async with asyncio.timeout(AT_ONCE_S * patience):
            await upstream.left.wait()
        await client.close()


async def test_between_two_tries_nothing_more_is_asked(patience: float) -> None:
    pausing = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        pausing.set()
        await asyncio.Event().wait()

    async def refuse(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with RawUpstream(refuse) as upstream:
        client = HuggingFace(base_url=upstream.url, token=None, timeout_s=20, max_retries=3, connections=4, sleep=sleep)
        async with asyncio.timeout(AT_ONCE_S * patience):
            await leave(client.generate(call(), timeout_s=30), pausing.wait)
            await upstream.left.wait()
        assert len(upstream.peers) == 1
        await client.close()


async def test_between_two_polls_nothing_more_is_asked(patience: float) -> None:
    pausing = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        pausing.set()
        await asyncio.Event().wait()

    async with RawUpstream(poll) as upstream:
        client = Polling(base_url=upstream.url, token=None, timeout_s=20, max_retries=3, connections=4, sleep=sleep)
        async with asyncio.timeout(AT_ONCE_S * patience):
            await leave(client.generate(call(), timeout_s=30), pausing.wait)
        assert upstream.peers[0].requests == 1
        await client.close()
