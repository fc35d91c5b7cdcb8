"""Every way in which an upstream is known to fail, byte for byte, and what has to come of it."""

import asyncio
import gzip
import json
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from tests.fakes.huggingface import chat_answer
from tests.fakes.raw_upstream import Peer

HTML = b"<!DOCTYPE HTML><HTML><HEAD><TITLE>ERROR: The request could not be satisfied</TITLE></HEAD>no</HTML>"
SSE = {"Content-Type": "text/event-stream", "x-inference-provider": "fake"}
STREAM = "Content-Type: text/event-stream\r\nx-inference-provider: fake\r\nTransfer-Encoding: chunked"
TIMEOUT_S = 1.0
GAP_S = 0.5
"""The time of a try, and of a silence in it, in which the table is run."""


class Ending(Enum):
    KEEP = auto()
    CLOSE = auto()
    RESET = auto()
    STALL = auto()


@dataclass(frozen=True, slots=True)
class UpstreamFault:
    """`pieces` are what upstream sends, `pause_s` apart. The rest is what has to come of it.

    `calls` are those of one generation with three retries at most; `words` a part of the message. `partial` is the text
    that is kept; `text` that of an answer which is none the worse for it.
    """

    name: str
    pieces: tuple[bytes, ...]
    words: str = ""
    calls: int = 1
    is_transient: bool = False
    pause_s: float = 0.0
    ending: Ending = Ending.KEEP
    partial: str | None = None
    text: str | None = None
    pauses: tuple[float, ...] | None = None
    retry_after_s: float | None = None

    async def play(self, peer: Peer) -> None:
        """Fail every request."""
        while True:
            await peer.read_request()
            await self.fail(peer)

    async def fail(self, peer: Peer) -> None:
        """Answer a request that was read. Raises `ConnectionResetError` where the connection ends with it."""
        for piece in self.pieces:
            await peer.send(piece)
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
        if self.ending is Ending.KEEP:
            return
        if self.ending is Ending.STALL:
            await peer.read_to_end()
        await asyncio.sleep(0.02)  # what was sent is read before the end is seen
        if self.ending is Ending.RESET:
            peer.reset()
        raise ConnectionResetError


def whole(status: int, body: bytes, **headers: str) -> tuple[bytes, ...]:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines).encode() + b"\r\n\r\n" + body,)


def refusal(status: int, error: Any, **headers: str) -> tuple[bytes, ...]:
    return whole(status, json.dumps({"error": error}).encode(), Content_Type="application/json", **headers)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(*pieces: bytes, ends: bool = True) -> tuple[bytes, ...]:
    head = f"HTTP/1.1 200 OK\r\n{STREAM}\r\n\r\n".encode()
    return (head, *map(chunk, pieces), *([b"0\r\n\r\n"] if ends else []))


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


TEXT = chat_answer("half", " of it").pieces
HALF = TEXT[:2]

AWAY = "The model provider cannot answer at the moment"
RETRIED = (0.5, 1.0, 2.0)

FAULTS = (
    UpstreamFault(
        "429 with Retry-After: 2",
        refusal(429, "Model is overloaded", Retry_After="2"),
        f"{AWAY} (429): Model is overloaded.",
        calls=4,
        is_transient=True,
        pauses=(2.2, 2.2, 2.2),
        retry_after_s=2,
    ),
    UpstreamFault(
        "429 with Retry-After: 60",
        refusal(429, "Rate limit reached", Retry_After="60"),
        f"{AWAY} (429): Rate limit reached.",
        is_transient=True,
        retry_after_s=60,
    ),
    UpstreamFault(
        "429 without Retry-After",
        refusal(429, {"message": "Rate limit reached for tokens", "code": "rate_limit_exceeded"}),
        f"{AWAY} (429): Rate limit reached for tokens.",
        calls=4,
        is_transient=True,
        pauses=RETRIED,
    ),
    UpstreamFault(
        "503 loading, 3 s",
        whole(503, b'{"error":"Model x is currently loading","estimated_time":3.0}', Content_Type="application/json"),
        "currently loading",
        calls=4,
        is_transient=True,
        pauses=(3.3, 3.3, 3.3),
        retry_after_s=3,
    ),
    UpstreamFault(
        "503 loading, 53 s",
        whole(503, b'{"error":"Model x is currently loading","estimated_time":53.2}', Content_Type="application/json"),
        "currently loading",
        is_transient=True,
        retry_after_s=53.2,
    ),
    UpstreamFault(
        "502 with a web page",
        whole(502, HTML, Content_Type="text/html"),
        f"{AWAY} (502): Bad Gateway.",
        calls=4,
        is_transient=True,
        pauses=RETRIED,
    ),
    UpstreamFault("500", refusal(500, "Internal server error"), f"{AWAY} (500)", calls=3, is_transient=True),
    UpstreamFault(
        "500 for an input",
        whole(500, b'{"error":"unknown error","warnings":["bad input"]}', Content_Type="application/json"),
        "refused the request (500)",
    ),
    UpstreamFault("504", whole(504, HTML, Content_Type="text/html"), f"{AWAY} (504)", calls=2, is_transient=True),
    UpstreamFault("424", refusal(424, "Request failed during generation"), "(424)", calls=2, is_transient=True),
    UpstreamFault("401", refusal(401, "Invalid credentials in Authorization header"), "HF_API_TOKEN"),
    UpstreamFault("401 with a web page", whole(401, HTML, Content_Type="text/html"), "refused: Unauthorized."),
    UpstreamFault("402", refusal(402, "You have depleted your monthly included credits."), "no credits left"),
    UpstreamFault("403", refusal(403, "No permission on behalf of user jo"), "not allowed to do this"),
    UpstreamFault("404", whole(404, b"Not Found", Content_Type="text/plain"), "does not have this model (404)"),
    UpstreamFault("410", refusal(410, "The requested model is deprecated"), "does not have this model (410)"),
    UpstreamFault("413", refusal(413, "Payload too large"), "refused the request (413)"),
    UpstreamFault("422", refusal(422, "Input validation error"), "refused the request (422)"),
    UpstreamFault("a redirect", whole(307, b"", Location="http://127.0.0.1:1/"), "sent the request elsewhere"),
    UpstreamFault(
        "reset before the first byte",
        (),
        "closed the connection without an answer",
        calls=5,
        is_transient=True,
        ending=Ending.RESET,
        pauses=(0.0, *RETRIED),
    ),
    UpstreamFault(
        "closed before the first byte",
        (),
        "closed the connection without an answer",
        calls=5,
        is_transient=True,
        ending=Ending.CLOSE,
    ),
    UpstreamFault(
        "reset before any text",
        stream(TEXT[0], ends=False),
        "broke off before its end",
        calls=4,
        is_transient=True,
        ending=Ending.RESET,
    ),
    UpstreamFault(
        "reset in the middle",
        stream(*HALF, ends=False),
        "broke off before its end",
        ending=Ending.RESET,
        pause_s=0.01,
        partial="half",
    ),
    UpstreamFault(
        "closed in the middle of a chunk",
        (*stream(*HALF, ends=False), b"400\r\n" + event(b'{"choices":[{"delta":{"content":" of')[:-2]),
        "broke off before its end",
        ending=Ending.CLOSE,
        partial="half",
    ),
    UpstreamFault(
        "ended without an end",
        stream(*HALF),
        "broke off before its end",
        partial="half",
    ),
    UpstreamFault(
        "shorter than its length",
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b"".join(HALF),),
        "broke off before its end",
        ending=Ending.CLOSE,
        partial="half",
    ),
    UpstreamFault(
        "a drip without an event",
        (stream(ends=False)[0], *(chunk(bytes([byte])) for byte in TEXT[0])),
        f"did not finish its answer within {TIMEOUT_S:.3g} s",
        calls=4,
        is_transient=True,
        pause_s=0.05,
    ),
    UpstreamFault(
        "a drip of text",
        stream(*chat_answer(*["drop "] * 60).pieces),
        f"did not finish its answer within {TIMEOUT_S:.3g} s",
        pause_s=0.05,
        partial="drop drop",
    ),
    UpstreamFault(
        "a silence in the middle",
        stream(*HALF, ends=False),
        f"did not go on with its answer within {GAP_S} s",
        ending=Ending.STALL,
        partial="half",
    ),
    UpstreamFault(
        "no answer at all",
        (),
        f"did not answer within {TIMEOUT_S:.3g} s",
        calls=4,
        is_transient=True,
        ending=Ending.STALL,
    ),
    UpstreamFault(
        "a compressed answer",
        whole(200, gzip.compress(b"{}"), Content_Type="application/json", Content_Encoding="gzip"),
        "sent a compressed answer",
        calls=4,
        is_transient=True,
    ),
    UpstreamFault(
        "headers without an end",
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000,),
        "was not valid HTTP",
        calls=4,
        is_transient=True,
        ending=Ending.STALL,
    ),
    UpstreamFault(
        "bad UTF-8",
        stream(
            event(b'{"choices":[{"index":0,"delta":{"content":"caf\xe9"}}]}'),
            event(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'),
            event(b"[DONE]"),
        ),
        text="caf\N{REPLACEMENT CHARACTER}",
    ),
    UpstreamFault(
        "invalid JSON",
        stream(event(b'{"choices": oops}')),
        "could not be understood",
        calls=4,
        is_transient=True,
    ),
    UpstreamFault(
        "invalid JSON in the middle",
        stream(*HALF, event(b'{"choices": oops}')),
        "could not be understood",
        partial="half",
    ),
    UpstreamFault("a web page under 200", whole(200, HTML), "a web page", calls=4, is_transient=True),
    UpstreamFault("an empty 200", whole(200, b""), "an empty completion", calls=4, is_transient=True),
    UpstreamFault("[DONE] alone", stream(event(b"[DONE]")), "an empty completion", calls=4, is_transient=True),
    UpstreamFault(
        "an error under 200",
        stream(
            event(b'{"error":{"message":"Input validation error: no grammar","http_status_code":422}}'),
            event(b"[DONE]"),
        ),
        "refused the request (422): Input validation error: no grammar.",
    ),
    UpstreamFault(
        "an outage under 200",
        stream(event(b'{"error":"Model is overloaded","error_type":"overloaded"}')),
        f"{AWAY} (429)",
        calls=4,
        is_transient=True,
    ),
    UpstreamFault(
        "an error in the middle",
        stream(*HALF, event(b'{"error":{"message":"gone","code":503}}')),
        f"{AWAY} (503): gone.",
        partial="half",
    ),
)


@dataclass(slots=True)
class Row:
    """One line of the table that the test prints."""

    fault: str
    outcome: str
    calls: int
    message: str


@dataclass(slots=True)
class Table:
    rows: list[Row] = field(default_factory=list)

    def show(self, title: str) -> None:
        print(f"\n{title}")
        for row in self.rows:
            print(f"  {row.fault:<32} {row.outcome:<22} {row.calls} calls  {row.message}")
