"""A Hugging Face of our own: a real server on a loopback port, scripted per call, that notes what it was asked."""

import asyncio
import base64
import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Self

from aiohttp import hdrs, web

_FRAMING = frozenset({"content-encoding", "transfer-encoding", "content-length", "connection", "keep-alive"})
"""Headers of a tape that say how its bytes travelled then; the body is stored decompressed and whole."""
_AWKWARD_SIZES = (1, 2, 3, 5, 7, 11, 1, 13, 64)


class End(Enum):
    """How an answer ends."""

    CLEAN = auto()
    CUT = auto()
    """The connection is closed without the end that the framing announced."""
    RESET = auto()
    STALL = auto()
    """Nothing more comes until the client goes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One scripted answer. `pieces` are the chunks in which the body is written, `pause_s` apart."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: tuple[bytes, ...] = ()
    delay_s: float = 0.0
    pause_s: float = 0.0
    end: End = End.CLEAN
    is_silent: bool = False
    """Not even a status line comes: the connection ends as `end` says."""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def split_awkwardly(self) -> "Answer":
        """The same bytes in pieces that respect no line, no event and no character."""
        return replace(self, pieces=tuple(awkward_pieces(self.body)))


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came in; `body` is the JSON, None where there was none, and `raw` the bytes."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    raw: bytes = b""

    @property
    def model(self) -> Any:
        return self.body["model"]


Respond = Callable[[Received], Answer]


class FakeHuggingFace:
    """An async context manager. Calls take the queued answers in turn, then what `default` makes of the request."""

    def __init__(
        self,
        *answers: Answer,
        default: Respond | None = None,
        models: list[str] | None = None,
        listing: Answer | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.queue = deque(answers)
        self.default = default
        self.models = models
        self.listing = listing
        """In place of the list of models, where it is given."""
        self.received: list[Received] = []
        self.called = asyncio.Event()
        self.abandoned = asyncio.Event()
        """Set when a client goes before the end of its answer."""
        self.connections: set[int] = set()
        self.url = ""
        self._host = host
        self._runner = web.AppRunner(_app(self._handle), handler_cancellation=True, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def calls(self) -> list[Received]:
        """The generations that were asked for."""
        return [request for request in self.received if request.method == "POST"]

    def answer(self, *answers: Answer) -> None:
        self.queue.extend(answers)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        received = Received(request.method, request.raw_path, dict(request.headers), _parsed(raw), raw)
        self.received.append(received)
        assert request.transport is not None
        self.connections.add(id(request.transport))
        if request.method == hdrs.METH_GET and request.path.endswith("/models"):
            return self._list_models() if self.listing is None else await _play(request, self.listing)
        self.called.set()
        try:
            return await _play(request, self._choose(received))
        except (asyncio.CancelledError, ConnectionError):
            self.abandoned.set()
            raise

    def _list_models(self) -> web.Response:
        if self.models is None:
            raise web.HTTPNotFound
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    def _choose(self, received: Received) -> Answer:
        if self.queue:
            return self.queue.popleft()
        if self.default is not None:
            return self.default(received)
        return json_answer({"error": "the script of this fake has no answer left"}, status=500)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None


def _app(handle: Callable[[web.Request], Any]) -> web.Application:
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", handle)
    return app


async def _play(request: web.Request, answer: Answer) -> web.StreamResponse:
    await asyncio.sleep(answer.delay_s)
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if not answer.is_silent:
        if answer.end is not End.CLEAN:
            response.enable_chunked_encoding()
        await response.prepare(request)
        for number, piece in enumerate(answer.pieces):
            if number:
                await asyncio.sleep(answer.pause_s)
            await response.write(piece)
    if answer.end is not End.CLEAN:
        await asyncio.sleep(answer.pause_s)  # what was written is on its way before the connection goes
    await _end(request, answer.end)
    if not answer.is_silent:
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
    return response


async def _end(request: web.Request, end: End) -> None:
    assert request.transport is not None
    match end:
        case End.CLEAN:
            pass
        case End.CUT:
            request.transport.close()
        case End.RESET:
            request.transport.abort()
        case End.STALL:
            await asyncio.Event().wait()


def awkward_pieces(body: bytes) -> Iterator[bytes]:
    position = turn = 0
    while position < len(body):
        size = _AWKWARD_SIZES[turn % len(_AWKWARD_SIZES)]
        yield body[position : position + size]
        position, turn = position + size, turn + 1


def json_answer(data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, {"Content-Type": "application/json", **(headers or {})}, (json.dumps(data).encode(),))


def error_answer(status: int, words: str = "scripted", *, headers: Mapping[str, str] | None = None) -> Answer:
    """An error in the shape that Hugging Face itself uses."""
    return json_answer({"error": words}, status=status, headers=headers)


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def chat_answer(
    *texts: str, finish: str | None = "stop", usage: tuple[int, int] | None = (3, 2), done: bool = True
) -> Answer:
    """A stream of chat deltas, each event a piece. `usage` is (prompt, completion)."""
    pieces = [event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})]
    pieces += [event({"choices": [{"index": 0, "delta": {"content": text}}], "usage": None}) for text in texts]
    if finish is not None:
        pieces.append(event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
    if usage is not None:
        prompt, completion = usage
        counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        pieces.append(event({"choices": [], "usage": counts}))
    if done:
        pieces.append(b"data: [DONE]\n\n")
    return Answer(200, {"Content-Type": "text/event-stream", "x-inference-provider": "fake"}, tuple(pieces))


def replay(record: Mapping[str, Any]) -> Answer:
    """A recorded response, byte for byte, in one piece."""
    response = record["response"]
    headers = {name: value for name, value in response["headers"].items() if name.lower() not in _FRAMING}
    return Answer(response["status"], headers, (body_of(record),))


def body_of(record: Mapping[str, Any]) -> bytes:
    response = record["response"]
    if "base64" in response:
        return base64.b64decode(response["base64"])
    return str(response.get("body") or "").encode()
