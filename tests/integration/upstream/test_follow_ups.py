"""Answers that are to be had elsewhere, or later: what is asked for them, where, and how often."""

import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from server.inference.attempt import MAX_ADDRESSES, MAX_HOPS
from server.inference.events import Call, Event, FileChunk, GenerationFailed, Started, Task
from server.inference.huggingface import HuggingFace
from server.inference.protocol import OpenReader, WireRequest, result_reader
from server.model_request import Completed
from tests.fakes.huggingface import Answer, End, FakeHuggingFace, Received, error_answer, json_answer
from tests.fakes.raw_upstream import Peer, RawUpstream
from tests.integration.upstream.generations import TOKEN, Client, Sleeper, call
from tests.integration.upstream.readers import BytesReader, follow_up_reader

IMAGE = Answer(200, {"Content-Type": "image/png"}, (b"\x89PNG", b" and so on"))
REFUSED = "The model provider left its answer at an address that is not public."


class Following(HuggingFace):
    """Its calls are answered by what `read` makes of the answer to a POST."""

    read: OpenReader

    async def _prepare(
        self, call: Call, model: str | None, timeout_s: float
    ) -> tuple[str | None, WireRequest, OpenReader]:
        return model, WireRequest("POST", f"{self._base_url}/v1/job", {}, b"{}"), self.read


class Fixture:
    """An upstream whose job is done elsewhere."""

    def __init__(self, fake: FakeHuggingFace) -> None:
        self.fake = fake
        self.sleep = Sleeper()
        self.clients: list[Following] = []

    def connect(self, read: OpenReader, *, base_url: str = "", timeout_s: float = 5) -> Following:
        client = Following(
            base_url=base_url or self.fake.url,
            token=TOKEN,
            timeout_s=timeout_s,
            max_retries=3,
            connections=4,
            sleep=self.sleep,
            jitter=lambda low, _: low,
        )
        client.read = read
        self.clients.append(client)
        return client

    async def follow(self, url: str, **options: Any) -> list[Event]:
        """What becomes of an answer that names this address."""
        foreign = WireRequest("GET", url, {"Accept": "image/*"}, is_foreign=True)
        return await run(self.connect(follow_up_reader(lambda: foreign, read=BytesReader), **options))


async def run(client: HuggingFace) -> list[Event]:
    return [event async for event in client.generate(call(), timeout_s=30)]


@pytest.fixture
async def job(fake: FakeHuggingFace) -> AsyncIterator[Fixture]:
    fixture = Fixture(fake)
    yield fixture
    for client in fixture.clients:
        await client.close()


def failed(events: list[Event]) -> GenerationFailed:
    assert isinstance(events[-1], GenerationFailed), events
    return events[-1]


async def test_an_answer_elsewhere_is_followed_to_its_bytes(job: Fixture) -> None:
    job.fake.answer(json_answer({"images": []}), IMAGE)
    started, *chunks, completed = await job.follow(f"{job.fake.url}/files/1")
    assert started == Started(None)
    assert b"".join(chunk.data for chunk in chunks if isinstance(chunk, FileChunk)) == IMAGE.body
    assert isinstance(completed, Completed)


async def test_an_address_that_upstream_named_gets_no_credentials(job: Fixture) -> None:
    job.fake.answer(json_answer({}, headers={"Set-Cookie": "session=secret; Path=/"}), IMAGE)
    await job.follow(f"{job.fake.url}/files/1")
    asked, followed = job.fake.received
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    assert followed.path == "/files/1"
    assert followed.headers["Accept"] == "image/*"
    assert not {"Authorization", "Cookie", "apikey"} & set(followed.headers)


async def test_another_address_gets_no_credentials_even_if_nobody_said_that_it_is_foreign(
    job: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.inference.transport.open_public_socket", lambda info: socket.socket(*info[:3]))
    async with FakeHuggingFace(IMAGE, host="127.0.0.2") as other:
        job.fake.answer(json_answer({}))
        wire = WireRequest("GET", f"{other.url}/x", {})
        await run(job.connect(follow_up_reader(lambda: wire, read=BytesReader)))
        assert "Authorization" not in other.received[0].headers


async def test_a_poll_of_upstream_itself_has_the_credentials(job: Fixture) -> None:
    job.fake.answer(json_answer({}), IMAGE)
    wire = WireRequest("GET", f"{job.fake.url}/v1/job/1", {})
    await run(job.connect(follow_up_reader(lambda: wire, read=BytesReader)))
    assert job.fake.received[1].headers["Authorization"] == f"Bearer {TOKEN}"


async def test_a_redirect_is_not_followed(job: Fixture) -> None:
    async with FakeHuggingFace(IMAGE) as other:
        job.fake.answer(json_answer({}), error_answer(302, headers={"Location": f"{other.url}/x"}))
        assert failed(await job.follow(f"{job.fake.url}/files/1")).message == "It said 302."
        assert other.received == []


# Where it may lead


@contextlib.asynccontextmanager
async def decoy(host: str) -> AsyncIterator[tuple[int, list[Received]]]:
    """Something that must not be reached, at an address of this machine."""
    async with FakeHuggingFace(host=host) as fake:
        fake.default = lambda _: IMAGE
        yield int(fake.url.rpartition(":")[2]), fake.received


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("127.0.0.2", "127.0.0.2"),
        ("127.0.0.1", "localhost"),
        ("127.0.0.1", "0.0.0.0"),  # noqa: S104 - reaches this machine
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
        ("127.0.0.1", "2130706433"),
        ("127.0.0.1", "127.1"),
        ("127.0.0.1", "0x7f000001"),
        ("127.0.0.1", "rebound.example"),
        ("127.0.0.1", "mapped.example"),
        ("::1", "[::1]"),
    ],
)
async def test_an_address_of_this_machine_is_refused(
    host: str, written: str, job: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"rebound.example": (socket.AF_INET, "127.0.0.1"), "mapped.example": (socket.AF_INET6, "::ffff:127.0.0.1")}
    resolve(monkeypatch, names)
    async with decoy(host) as (port, received):
        job.fake.answer(json_answer({}))
        failure = failed(await job.follow(f"http://{written}:{port}/secret"))
        assert failure.message == REFUSED
        assert not failure.transient
        assert received == []


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "100.64.1.1", "192.168.0.1", "fd00::1", "fe80::1"])
async def test_an_address_of_a_network_around_is_refused_however_it_is_named(
    address: str, job: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    resolve(monkeypatch, {"inside.example": (family, address)})
    literal = f"[{address}]" if ":" in address else address
    for host in ("inside.example", literal):
        job.fake.answer(json_answer({}))
        assert failed(await job.follow(f"http://{host}/latest/meta-data")).message == REFUSED


def resolve(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, tuple[int, str]]) -> None:
    real = socket.getaddrinfo

    def lookup(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        if host in names:
            family, address = names[host]
            return [(family, socket.SOCK_STREAM, 6, "", (address, port, *((0, 0) if ":" in address else ())))]
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/x",
        "ws://127.0.0.1/",
        "http://[bad/",
        "//x",
        "https://a..b/x",
        f"https://{'a' * 64}.example/x",
    ],
)
async def test_only_web_addresses_are_followed(url: str, job: Fixture) -> None:
    job.fake.answer(json_answer({}))
    assert failed(await job.follow(url)).message == REFUSED


async def test_p3_another_port_of_the_provider_s_host_is_not_called(job: Fixture) -> None:
    async with decoy("127.0.0.1") as (port, received):
        for url in (f"http://127.0.0.1:{port}/1", f"https://127.0.0.1:{port}/1", "http://127.0.0.1:22/"):
            job.fake.answer(json_answer({}))
            failure = failed(await job.follow(url))
            assert failure.message == "The model provider left its answer at another port than its own, 80 or 443."
            assert not failure.transient
        assert received == []


@pytest.mark.parametrize("url", ["http://127.0.0.1/1", "http://127.0.0.1:80/1", "https://127.0.0.1:443/1"])
async def test_p3_the_ports_of_the_web_are_called_at_the_provider_s_host(url: str, job: Fixture) -> None:
    """Nothing listens there; that is the difference to a refusal."""
    job.fake.answer(json_answer({}))
    assert failed(await job.follow(url)).message == "The model provider could not be reached."


# How often, and how long


async def test_a_job_is_polled_with_pauses_until_it_is_done(job: Fixture) -> None:
    job.fake.default = lambda _: json_answer({"status": "IN_QUEUE"})
    polls = 0

    def next_wire() -> WireRequest:
        nonlocal polls
        polls += 1
        return WireRequest("GET", f"{job.fake.url}/v1/job/{polls}", {})

    last = follow_up_reader(next_wire, read=BytesReader, pause_s=0.5)
    second = follow_up_reader(next_wire, read=last, pause_s=0.5)
    first = follow_up_reader(next_wire, read=second, pause_s=0.5)
    assert isinstance((await run(job.connect(first)))[-1], Completed)
    assert [received.path for received in job.fake.received] == ["/v1/job", "/v1/job/1", "/v1/job/2", "/v1/job/3"]
    assert job.sleep.pauses == [0.5] * 3


async def test_a_job_that_is_never_done_is_given_up(job: Fixture) -> None:
    job.fake.default = lambda _: Answer(200, {}, (b".",))
    wire = WireRequest("GET", f"{job.fake.url}/v1/job/1", {})
    failure = failed(await run(job.connect(follow_up_reader(lambda: wire), timeout_s=60)))
    assert "from one address to the next" in failure.message
    assert not failure.transient
    assert len(job.fake.received) == 1 + MAX_HOPS


async def test_downloads_that_lead_to_downloads_are_given_up(job: Fixture) -> None:
    job.fake.default = lambda _: Answer(200, {}, (b".",))

    def next_wire() -> WireRequest:
        return WireRequest("GET", f"{job.fake.url}/files/{len(job.fake.received)}", {}, is_foreign=True)

    assert "from one address" in failed(await run(job.connect(follow_up_reader(next_wire)))).message
    assert len(job.fake.received) == 1 + MAX_ADDRESSES


async def test_a_job_elsewhere_may_be_polled_as_often_as_one_of_upstream_s(job: Fixture) -> None:
    job.fake.default = lambda _: Answer(200, {}, (b".",))
    wire = WireRequest("GET", f"{job.fake.url}/elsewhere/1", {}, is_foreign=True)
    assert "from one address" in failed(await run(job.connect(follow_up_reader(lambda: wire), timeout_s=60))).message
    assert len(job.fake.received) == 1 + MAX_HOPS


@pytest.mark.parametrize("status", [401, 403, 503])
async def test_what_another_address_says_is_no_word_on_upstream_or_its_token(status: int, job: Fixture) -> None:
    """A signed URL that has expired answers 403."""
    refusal = error_answer(status)
    job.fake.default = lambda received: refusal if received.method == "GET" else json_answer({})
    wire = WireRequest("GET", f"{job.fake.url}/files/1", {}, is_foreign=True)
    client = job.connect(follow_up_reader(lambda: wire, read=BytesReader))
    client._max_retries = 0
    for _ in range(12):
        assert failed(await run(client)).message == f"It said {status}."
    assert [one.method for one in job.fake.received] == ["POST", "GET"] * 12
    assert not client.breaker.is_open


async def paint(job: Fixture, **options: Any) -> list[Event]:
    """A whole generation of an image: the POST begins a job, the GET of `/jobs/1` tells its state."""
    client = Client(job.fake, **options)
    try:
        return await client.run("org/name", task=Task.TEXT_TO_IMAGE)
    finally:
        await client.upstream.close()


def begun(job: Fixture) -> Answer:
    state = {"status": "starting", "output": None, "urls": {"get": f"{job.fake.url}/jobs/1"}}
    return json_answer(state, status=201)


@pytest.mark.parametrize("end", [End.CUT, End.RESET])
async def test_a_question_that_finds_nobody_is_put_again_and_the_job_is_not_begun_anew(end: End, job: Fixture) -> None:
    nobody = Answer(is_silent=True, end=end)
    done = json_answer({"status": "succeeded", "output": [f"{job.fake.url}/files/1"]})
    # aiohttp itself repeats a GET on a connection that was kept: the first of them is two.
    job.fake.answer(begun(job), nobody, nobody, nobody, done, nobody, nobody, IMAGE)
    events = await paint(job)
    assert isinstance(events[-1], Completed), events
    assert [one.method for one in job.fake.received].count("POST") == 1


async def test_a_job_whose_state_cannot_be_had_is_left_for_later(job: Fixture) -> None:
    nobody = Answer(is_silent=True, end=End.CUT)
    job.fake.default = lambda received: begun(job) if received.method == "POST" else nobody
    assert failed(await paint(job)).transient
    assert [one.method for one in job.fake.received].count("POST") == 1


async def test_a_job_that_takes_longer_than_a_try_is_not_begun_anew(
    job: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_reader, "FIRST_PAUSE_S", 6.0)
    job.fake.default = lambda _: begun(job)
    failure = failed(await paint(job))
    assert failure.message == "The model did not finish its answer within 5 s."
    assert failure.transient
    assert [one.method for one in job.fake.received] == ["POST"]


async def test_a_pause_beyond_the_time_of_the_try_is_not_begun(job: Fixture) -> None:
    job.fake.default = lambda _: Answer(200, {}, (b".",))
    wire = WireRequest("GET", f"{job.fake.url}/v1/job/1", {})
    failure = failed(await run(job.connect(follow_up_reader(lambda: wire, pause_s=6))))
    assert failure.message == "The model did not finish its answer within 5 s."
    assert len(job.fake.received) == 1


async def test_polls_share_the_time_of_one_try() -> None:
    async def stall_at_the_third(peer: Peer) -> None:
        for _ in range(2):
            await peer.read_request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.")
        await peer.read_to_end()

    async with RawUpstream(stall_at_the_third) as upstream:
        client = Following(base_url=upstream.url, token=None, timeout_s=0.5, max_retries=0, connections=4)
        client.read = follow_up_reader(lambda: WireRequest("GET", f"{upstream.url}/v1/job", {}))
        assert failed(await run(client)).message == "The model did not answer within 0.5 s."
        await client.close()


@pytest.mark.parametrize("end", [End.CUT, End.RESET])
async def test_a_download_that_breaks_off_after_its_first_bytes_is_not_made_again(end: End, job: Fixture) -> None:
    job.fake.answer(json_answer({}), Answer(200, {}, (b"half",), pause_s=0.02, end=end))
    events = await job.follow(f"{job.fake.url}/files/1")
    assert FileChunk(b"half", 0, "application/octet-stream") in events
    assert not failed(events).transient
    assert len(job.fake.received) == 2
