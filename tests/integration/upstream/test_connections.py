"""What becomes of connections, and of those that cannot be made."""

import asyncio
import socket
from typing import Any

import pytest
from aiohttp.test_utils import unused_port

from server.inference.events import Call, GenerationFailed, Task
from server.inference.huggingface import HuggingFace
from server.inference.response_handler import MAX_INTERIM_RESPONSES
from tests.fakes.huggingface import (
    Answer,
    End,
    FakeHuggingFace,
    chat_answer,
    error_answer,
)
from tests.fakes.raw_upstream import Peer, RawUpstream
from tests.integration.upstream.generations import Client, Connect, call


async def test_a_kept_connection_that_has_gone_is_replaced_at_once(client: Client) -> None:
    gone = Answer(is_silent=True, end=End.CUT)
    client.fake.answer(chat_answer("a"), gone, chat_answer("b"))
    await client.complete()
    assert (await client.complete()).output_data["output"] == "b"
    assert client.sleep.pauses == [0.0]
    assert len(client.fake.connections) == 2


@pytest.mark.parametrize("end", [End.CUT, End.RESET])
async def test_who_always_hangs_up_is_an_outage(client: Client, end: End) -> None:
    client.fake.default = lambda _: Answer(is_silent=True, end=end)
    failed = await client.fail()
    assert failed.transient
    assert "closed the connection" in failed.message
    assert len(client.fake.calls) == 5


async def test_leaving_early_closes_the_connection(client: Client) -> None:
    client.fake.answer(Answer(200, {}, chat_answer("a").pieces[:2], end=End.STALL))
    events = client.upstream.generate(call(), timeout_s=30)
    await anext(events)
    await events.aclose()
    async with asyncio.timeout(2):
        await client.fake.abandoned.wait()


async def test_a_cancelled_generation_closes_the_connection(client: Client) -> None:
    client.fake.answer(Answer(end=End.STALL, is_silent=True))
    generation = asyncio.create_task(client.run())
    await client.fake.called.wait()
    generation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await generation
    async with asyncio.timeout(2):
        await client.fake.abandoned.wait()


async def test_nobody_there_is_an_outage(connect: Connect) -> None:
    failed = await connect(base_url=f"http://127.0.0.1:{unused_port()}").fail()
    assert failed.transient
    assert failed.message == "The model provider could not be reached."


async def test_an_unknown_name_is_an_outage(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    failed = await connect(base_url="http://models.invalid").fail()
    assert failed.transient
    assert failed.message == "The model provider's address could not be found."


async def test_another_protocol_is_an_outage_and_not_a_crash(connect: Connect) -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        failed = await connect(base_url=f"http://127.0.0.1:{port}", max_retries=1).fail()
    assert failed.transient
    assert failed.message == "The model provider's answer was not valid HTTP."


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("prompt", ["short", "long " * 40_000])
async def test_p1_endless_interim_responses_end_at_once(connect: Connect, prompt: str) -> None:
    """On both ways of a request: through the session, which sends large bodies, and beside it."""

    async def play(peer: Peer) -> None:
        await peer.read_request()
        while True:
            await peer.send(CONTINUE * 10_000)

    async with RawUpstream(play) as provider:
        upstream = connect(base_url=provider.url, max_retries=0, timeout_s=30).upstream
        asked = Call(Task.CHAT_COMPLETION, ("org/first",), {"prompt": prompt}, {})
        async with asyncio.timeout(5):
            events = [event async for event in upstream.generate(asked, timeout_s=30)]
            await provider.left.wait()
    assert isinstance(events[-1], GenerationFailed)
    assert events[-1].message == "The model provider's answer was not valid HTTP."


async def test_p1_some_interim_responses_precede_an_answer(connect: Connect) -> None:
    answer = chat_answer("hello")

    async def play(peer: Peer) -> None:
        while True:
            await peer.read_request()
            body = b"".join(answer.pieces)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
            hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            await peer.send(CONTINUE * 8 + hints * (MAX_INTERIM_RESPONSES - 8) + head + body)

    async with RawUpstream(play) as provider:
        client = connect(base_url=provider.url)
        for _ in range(2):
            assert (await client.complete()).output_data["output"] == "hello"
        assert len(provider.peers) == 1


async def test_a_server_without_tls_is_not_spoken_to_in_the_clear(connect: Connect, fake: FakeHuggingFace) -> None:
    failed = await connect(base_url=fake.url.replace("http:", "https:"), max_retries=0).fail()
    assert failed.transient
    assert failed.message == "A secure connection to the model provider could not be made."
    assert fake.received == []


async def test_a_redirect_is_not_followed_with_the_token(client: Client) -> None:
    async with FakeHuggingFace() as other:
        client.fake.answer(error_answer(307, headers={"Location": f"{other.url}/v1/chat/completions"}))
        failed = await client.fail()
        assert not failed.transient
        assert other.received == []


async def test_closing_an_upstream_that_was_never_used_is_nothing() -> None:
    upstream = HuggingFace(base_url="http://127.0.0.1:1", token=None, timeout_s=1, max_retries=0, connections=1)
    await upstream.close()
