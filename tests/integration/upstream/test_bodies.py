"""Bodies in parts, as they arrive at a socket: their length, their bytes, and what becomes of a file that fails."""

import asyncio
import base64
import contextlib
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import NotFound, Unavailable
from server.inference import body
from server.inference.body import PartsBody
from server.inference.events import Call, Event, GenerationFailed, InputFile
from server.inference.huggingface import HuggingFace
from server.inference.protocol import FilePart, OpenReader, WireRequest, reader_for
from server.model_request import Completed
from tests.fakes.huggingface import chat_answer
from tests.fakes.raw_upstream import Peer, RawUpstream
from tests.integration.upstream.generations import call

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


class Sending(HuggingFace):
    """Every call has this body."""

    parts: bytes | tuple[bytes | FilePart, ...] = b""

    async def _prepare(
        self, call: Call, model: str | None, timeout_s: float
    ) -> tuple[str | None, WireRequest, OpenReader]:
        headers = {"Content-Type": "application/json"}
        return model, WireRequest("POST", f"{self._base_url}/v1/x", headers, self.parts), reader_for(call, model)


def stored(*chunks: bytes, size: int | None = None, error: Exception | None = None) -> InputFile:
    """A file that comes in these chunks, and then perhaps fails."""

    async def open_chunks() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        if error is not None:
            raise error

    return InputFile("image/png", sum(map(len, chunks)) if size is None else size, open_chunks)


def answering(*responses: bytes) -> Callable[[Peer], Any]:
    answers = iter(responses)

    async def play(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await peer.send(next(answers))

    return play


def fine() -> bytes:
    body = chat_answer("fine").body
    return OK % (len(body), body)


@contextlib.asynccontextmanager
async def sending(url: str, *parts: bytes | FilePart) -> AsyncIterator[Sending]:
    async def sleep(_seconds: float) -> None:
        return

    client = Sending(base_url=url, token=None, timeout_s=20, max_retries=3, connections=4, sleep=sleep)
    client.parts = parts
    yield client
    await client.close()


async def run(client: HuggingFace) -> Event:
    return [event async for event in client.generate(call(), timeout_s=30)][-1]


def headers_of(peer: Peer) -> Mapping[str, str]:
    lines = peer.head.decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}


async def test_a_file_goes_raw_between_other_parts_with_an_exact_length() -> None:
    async with (
        RawUpstream(answering(fine())) as upstream,
        sending(upstream.url, b"<", FilePart(stored(b"one", b"", b"two")), b">") as client,
    ):
        assert isinstance(await run(client), Completed)
        [peer] = upstream.peers
        assert peer.body == b"<onetwo>"
        assert headers_of(peer)["content-length"] == "8"
        assert "transfer-encoding" not in headers_of(peer)


@pytest.mark.parametrize("chunks", [(), (b"a",), (b"ab", b"c"), (b"a" * 100_001, b"b" * 99_999), (b"x",) * 7])
async def test_a_file_goes_in_base64_that_json_takes(chunks: tuple[bytes, ...]) -> None:
    part = FilePart(stored(*chunks), is_base64=True)
    async with (
        RawUpstream(answering(fine())) as upstream,
        sending(upstream.url, b'{"inputs":"', part, b'"}') as client,
    ):
        assert isinstance(await run(client), Completed)
        [peer] = upstream.peers
        assert base64.b64decode(json.loads(bytes(peer.body))["inputs"]) == b"".join(chunks)
        assert int(headers_of(peer)["content-length"]) == len(peer.body)


async def test_a_large_body_in_memory_arrives_whole() -> None:
    prompt = b"p" * 3_000_000
    async with RawUpstream(answering(fine())) as upstream, sending(upstream.url) as client:
        client.parts = prompt
        assert isinstance(await run(client), Completed)
        assert upstream.peers[0].body == prompt


async def test_a_try_that_is_repeated_opens_the_file_anew() -> None:
    part = FilePart(stored(b"the ", b"file"))
    async with RawUpstream(answering(BUSY, fine())) as upstream, sending(upstream.url, part) as client:
        assert isinstance(await run(client), Completed)
        assert upstream.peers[0].body == b"the filethe file"


@pytest.mark.parametrize(
    ("file", "words", "is_transient"),
    [
        (stored(error=NotFound("There is no such file."), size=3), "There is no such file.", False),
        (stored(b"ab", error=RuntimeError("a secret"), size=3), "could not be read.", False),
        (stored(b"ab", size=3), "could not be read.", False),
        (stored(b"abcd", size=3), "could not be read.", False),
        (stored(b"ab", error=OSError(5, "disk"), size=3), "could not be read.", False),
        (
            stored(b"a", error=Unavailable("The storage is not available; try again.", retry_after_s=5), size=3),
            "The storage is not available; try again.",
            True,
        ),
    ],
    ids=["gone", "crash", "early end", "late end", "disk", "away"],
)
async def test_a_file_that_fails_is_no_fault_of_upstream(file: InputFile, words: str, *, is_transient: bool) -> None:
    async with RawUpstream(answering(fine(), fine())) as upstream, sending(upstream.url, FilePart(file)) as client:
        for _ in range(20):
            failed = await run(client)
            assert isinstance(failed, GenerationFailed)
            assert failed.message.startswith("An input file could not be read.")
            assert failed.message.endswith(words)
            assert failed.transient is is_transient
        assert not client.breaker.is_open
        assert client._circuits.order(("org/first", "org/second")) == ("org/first", "org/second")


async def test_a_store_that_hangs_is_no_model_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "STORE_GAP_S", 0.05)

    async def hang() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    part = FilePart(InputFile("image/png", 3, hang))
    async with RawUpstream(answering(fine())) as upstream, sending(upstream.url, part) as client:
        failed = await run(client)
        assert isinstance(failed, GenerationFailed)
        assert failed.message == "An input file could not be read."
        assert client.breaker._outages == 0


async def test_an_answer_before_the_end_of_the_body_counts() -> None:
    """A provider that refuses a file for its size says so at its first bytes."""

    async def refuse(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 22\r\n\r\n" + b'{"error":"too large!"}')
        await peer.read_to_end()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            await asyncio.sleep(0)

    part = FilePart(InputFile("image/png", 10**9, endless))
    async with RawUpstream(refuse) as upstream, sending(upstream.url, part) as client:
        failed = await run(client)
        assert isinstance(failed, GenerationFailed)
        assert "too large!" in failed.message
        assert len(upstream.peers) == 1


@pytest.mark.parametrize("is_base64", [False, True])
async def test_a_large_file_is_never_in_memory(*, is_base64: bool) -> None:
    chunk = b"x" * 262_144
    file = stored(*[chunk] * 200)  # the same chunk: what is measured is what sending adds

    async def take(peer: Peer) -> None:
        head = await peer.read_head()
        left = int(head.lower().partition(b"content-length:")[2].split()[0])
        while left:
            left -= len(await peer.read_some())
        await peer.send(fine())
        await peer.read_to_end()

    async with RawUpstream(take) as upstream, sending(upstream.url, FilePart(file, is_base64=is_base64)) as client:
        tracemalloc.start()
        try:
            assert isinstance(await run(client), Completed)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        print(f"50 MB sent {'in base64' if is_base64 else 'raw'}: at most {peak / 1e6:.1f} MB of Python's memory")
        assert peak < 5_000_000


class Written(bytearray):
    """What a body writes to."""

    transport = None

    async def write(self, chunk: bytes) -> None:
        self += chunk


@given(st.lists(st.binary(max_size=20), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_chunks_of_a_file_give_the_same_base64(chunks: list[bytes]) -> None:
    async def write() -> bytes:
        written: Any = Written()
        body = PartsBody((FilePart(stored(*chunks), is_base64=True),))
        await body.write(written)
        assert body.size == len(written)
        return bytes(written)

    assert asyncio.run(write()) == base64.b64encode(b"".join(chunks))


async def test_a_body_in_parts_has_no_text() -> None:
    with pytest.raises(TypeError):
        PartsBody((b"a",)).decode()
