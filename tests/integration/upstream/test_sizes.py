"""Large and compressed answers: what they cost in memory, and where they end."""

import gzip
import hashlib
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from server.inference import answer_body
from server.inference.events import Call, FileChunk, GenerationFailed, Task
from server.inference.huggingface import HuggingFace
from server.inference.protocol import OpenReader, WireRequest
from server.model_request import Completed
from tests.fakes.huggingface import Answer, chat_answer, error_answer
from tests.fakes.media import PNG
from tests.fakes.raw_upstream import Peer, RawUpstream
from tests.fakes.upstream_faults import bomb
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


async def test_a_compressed_answer_is_read_as_well(client: Client) -> None:
    body = gzip.compress(chat_answer("Hé", "llo").body)
    answer = Answer(200, {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}, (body,))
    client.fake.answer(answer, answer.split_awkwardly())
    for _ in range(2):
        assert (await client.complete()).output_data["output"] == "Héllo"


async def test_deltas_of_a_compressed_stream_come_as_they_are_sent(client: Client) -> None:
    packer = zlib.compressobj(wbits=31)
    pieces = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in chat_answer("a", "b").pieces]
    client.fake.answer(Answer(200, {"Content-Encoding": "gzip"}, (*pieces, packer.flush()), pause_s=0.01))
    assert [type(event).__name__ for event in await client.run()] == ["Started", "Delta", "Delta", "Completed"]


async def test_a_file_whose_packed_bytes_break_off_is_not_whole(client: Client) -> None:
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    client.fake.default = lambda _: Answer(200, headers, (gzip.compress(PNG)[:-4],))
    assert "broke off" in (await client.fail(task=Task.TEXT_TO_IMAGE)).message


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {"Content-Encoding": "gzip"}, (b"this is no gzip",)),
        Answer(200, {"Content-Encoding": "br"}, (b"whatever",)),
        Answer(200, {"Content-Encoding": "gzip"}, (gzip.compress(chat_answer("a").pieces[0])[:-4],)),
    ],
    ids=["garbage", "unknown", "cut off"],
)
async def test_what_cannot_be_unpacked_is_an_outage(client: Client, answer: Answer) -> None:
    client.fake.answer(answer, chat_answer("fine"))
    assert (await client.complete()).output_data["output"] == "fine"


async def test_the_words_of_a_compressed_error_are_read(client: Client) -> None:
    error = error_answer(422, "the input is too long", headers={"Content-Encoding": "gzip"})
    client.fake.answer(Answer(422, error.headers, (gzip.compress(error.body),)))
    assert "the input is too long" in (await client.fail()).message


@pytest.mark.parametrize(
    ("status", "words"),
    [(200, "larger than any completion"), (503, "cannot answer at the moment (503)"), (422, "refused the request")],
)
async def test_a_bomb_of_300_mb_stays_packed(connect: Connect, status: int, words: str) -> None:
    client = connect(max_retries=0)
    client.fake.answer(Answer(status, {"Content-Encoding": "gzip"}, (bomb(300, b"["),)))
    with measured(60_000_000, f"a bomb of 300 MB under {status}"):
        failed = await client.fail()
    assert words in failed.message
    assert len(client.fake.calls) == 1


async def test_a_bomb_in_the_place_of_a_listing_stays_packed(client: Client) -> None:
    client.fake.listing = Answer(200, {"Content-Encoding": "gzip"}, (bomb(300, b"["),))
    with measured(80_000_000, "a bomb of 300 MB as a listing"):  # orjson takes twelve times what it reads
        assert not (await client.upstream.check()).is_ok


async def test_an_answer_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_body, "MAX_ANSWER_BYTES", MIB)
    async with RawUpstream(Painter(50).play) as upstream, drawing(upstream) as client:
        last = [event async for event in client.generate(call(), timeout_s=60)][-1]
    assert isinstance(last, GenerationFailed)
    assert last.message == "The model provider's answer was larger than this server accepts."
    assert not last.transient
