"""Large and compressed answers: what they cost in memory, and where they end."""

import gzip
import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import pytest

from server.inference import answer_body
from server.inference.events import Call, FileChunk, GenerationFailed
from server.inference.huggingface import HuggingFace
from server.inference.protocol import OpenReader, WireRequest
from server.model_request import Completed
from tests.fakes.huggingface import Answer, chat_answer
from tests.fakes.raw_upstream import Peer, RawUpstream
from tests.integration.upstream.generations import Client, Connect, call
from tests.integration.upstream.readers import BytesReader
from tests.signals import until_still

MIB = 1024 * 1024
PIECE = bytes(range(256)) * 1024
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


class Picture(HuggingFace):
    """Its answers are files."""

    async def _prepare(
        self, call: Call, model: str | None, timeout_s: float
    ) -> tuple[str | None, WireRequest, OpenReader]:
        return model, WireRequest("POST", f"{self._base_url}/v1/images", {}, b"{}"), BytesReader


class Painter:
    """Sends a large file as fast as it is taken."""

    def __init__(self, size_mib: int) -> None:
        self.pieces = size_mib * MIB // len(PIECE)
        self.sent = 0

    async def play(self, peer: Peer) -> None:
        await peer.read_request()
        await peer.send(HEAD % (self.pieces * len(PIECE)))
        for _ in range(self.pieces):
            await peer.send(PIECE)
            self.sent += len(PIECE)
        await peer.read_to_end()


@asynccontextmanager
async def drawing(upstream: RawUpstream) -> AsyncIterator[Picture]:
    client = Picture(base_url=upstream.url, token=None, timeout_s=50, max_retries=0, connections=4)
    yield client
    await client.close()


@contextmanager
def measured(limit: int, what: str) -> Iterator[None]:
    """Fails where Python's memory grew by more."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{what}: at most {peak / 1e6:.1f} MB of Python's memory")
    assert peak < limit


async def test_a_picture_of_50_mb_passes_through_a_few() -> None:
    painter = Painter(50)
    digest, expected = hashlib.sha256(), hashlib.sha256()
    for _ in range(painter.pieces):
        expected.update(PIECE)
    async with RawUpstream(painter.play) as upstream, drawing(upstream) as client:
        with measured(8_000_000, "a picture of 50 MB"):
            async for event in client.generate(call(), timeout_s=60):
                if isinstance(event, FileChunk):
                    digest.update(event.data)
    assert isinstance(event, Completed)
    assert digest.digest() == expected.digest()


async def test_who_takes_no_more_is_sent_no_more() -> None:
    painter = Painter(64)
    async with RawUpstream(painter.play) as upstream, drawing(upstream) as client:
        events = client.generate(call(), timeout_s=60)
        while not isinstance(await anext(events), FileChunk):
            pass
        assert await until_still(lambda: painter.sent) < 32 * MIB
        size = sum([len(event.data) async for event in events if isinstance(event, FileChunk)])
        assert painter.sent == 64 * MIB > size > 60 * MIB


@pytest.mark.parametrize("coding", ["gzip", "br", "x-gzip"])
async def test_a_compressed_answer_is_an_outage(client: Client, coding: str) -> None:
    compressed = Answer(200, {"Content-Encoding": coding}, (gzip.compress(chat_answer("a").body),))
    client.fake.answer(compressed, chat_answer("fine"))
    assert (await client.complete()).output_data["output"] == "fine"


async def test_a_provider_that_compresses_always_is_named_as_the_cause(connect: Connect) -> None:
    client = connect(max_retries=0)
    client.fake.answer(Answer(200, {"Content-Encoding": "gzip"}, (gzip.compress(chat_answer("a").body),)))
    failed = await client.fail()
    assert "sent a compressed answer" in failed.message
    assert failed.transient


async def test_an_answer_may_say_that_it_is_not_compressed(client: Client) -> None:
    answer = chat_answer("plain")
    client.fake.answer(replace(answer, headers=dict(answer.headers) | {"Content-Encoding": "Identity"}))
    assert (await client.complete()).output_data["output"] == "plain"


async def test_a_compressed_error_is_known_by_its_status(client: Client) -> None:
    client.fake.answer(Answer(422, {"Content-Encoding": "gzip"}, (gzip.compress(b'{"error": "too long"}'),)))
    failed = await client.fail()
    assert "refused the request" in failed.message
    assert not failed.transient


async def test_a_compressed_listing_is_no_listing(client: Client) -> None:
    client.fake.listing = Answer(200, {"Content-Encoding": "gzip"}, (gzip.compress(b'{"data": []}'),))
    assert not (await client.upstream.check()).is_ok


async def test_an_answer_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_body, "MAX_ANSWER_BYTES", MIB)
    async with RawUpstream(Painter(50).play) as upstream, drawing(upstream) as client:
        last = [event async for event in client.generate(call(), timeout_s=60)][-1]
    assert isinstance(last, GenerationFailed)
    assert last.message == "The model provider's answer was larger than this server accepts."
    assert not last.transient
