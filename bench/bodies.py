"""The memory that JSON bodies of 20 MB take: each holds a photograph as a `data:` URL, and the model gets it back.

For each number at once, that many clients send such a body up to its last kilobytes and wait there for each other, so
that all are in flight together; then they finish, and wait for the answer. The model provider digests what it gets. The
peak of the server's resident memory is compared with its memory before. Every photograph must have arrived.

The kernel limits the server to 512 MiB of private writable memory (RLIMIT_DATA), touched or not. Postgres is extra.

    python -m bench.bodies [--at-once 1 10 50]
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import tempfile
import time
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from bench.processes import free_port, process, sign_up
from bench.usage import load_average, memory_mb

MAX_BYTES = 512 * 1024 * 1024
PHOTO_BYTES = 15_700_000
USERS = 10
HELD_BACK = 20_000
PIECE = 64 * 1024
ANSWER = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Seen."},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
)


class Provider:
    """A model provider that keeps the digest of each body."""

    def __init__(self) -> None:
        self.digests: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        digest = hashlib.sha256()
        async for chunk in request.content.iter_any():
            digest.update(chunk)
        self.digests.append(digest.hexdigest())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in ANSWER:
            await response.write(piece)
        return response

    async def start(self, port: int) -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/{path:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner


def _body() -> bytes:
    photo = b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(PHOTO_BYTES)  # noqa: S311 - the same in every run
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64encode(photo).decode()}"}}
    content = [{"type": "text", "text": "What is this?"}, image]
    return json.dumps({"model": "org/model", "messages": [{"role": "user", "content": content}]}).encode()


async def _send(
    session: aiohttp.ClientSession, url: str, token: str, body: bytes, all_in_flight: asyncio.Barrier
) -> str:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body) - HELD_BACK, PIECE):
            yield body[start : min(start + PIECE, len(body) - HELD_BACK)]
        with contextlib.suppress(asyncio.BrokenBarrierError):  # one has been refused
            await all_in_flight.wait()
            await asyncio.sleep(1)  # for what is on its way through the sockets
        yield body[-HELD_BACK:]

    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    async with session.post(f"{url}/v1/chat/completions", data=pieces(), headers=headers) as response:
        content = await response.read()
        if response.status != 200:
            await all_in_flight.abort()
        return f"{response.status}" if response.status == 200 else content.decode()[:200]


def _forget_peak(pid: int) -> None:
    """Let `VmHWM` begin at the present memory."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def _measure(at_once: int, url: str, tokens: list[str], pid: int, provider: Provider) -> None:
    body, before_mb = _body(), memory_mb(pid)
    provider.digests.clear()
    _forget_peak(pid)
    began = time.monotonic()
    barrier = asyncio.Barrier(at_once)
    timeout, connector = aiohttp.ClientTimeout(total=600), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        sends = [_send(session, url, tokens[number % USERS], body, barrier) for number in range(at_once)]
        answers = Counter(await asyncio.gather(*sends))
    peak_mb = memory_mb(pid, "VmHWM")
    growth_mb = peak_mb - before_mb
    arrived = len(provider.digests) if len(set(provider.digests)) == 1 else 0
    print(
        f"{at_once:3} at once: memory {before_mb:.0f} MB + {growth_mb:.1f} MB ({growth_mb / at_once:.2f} MB for each), "
        f"{time.monotonic() - began:.1f} s, answers {dict(answers)}, identical at the model: {arrived}"
    )


async def _run(url: str, upstream: int, pid: int, counts: list[int], tokens: list[str]) -> None:
    provider = Provider()
    runner = await provider.start(upstream)
    try:
        for at_once in counts:
            await _measure(at_once, url, tokens, pid, provider)
    finally:
        await runner.cleanup()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--at-once", type=int, nargs="+", default=[1, 1, 10, 50])
    counts = arguments.parse_args().at_once
    upstream, port = free_port(), free_port()
    with ExitStack() as stack:
        settings = {
            "DATA_DIR": stack.enter_context(tempfile.TemporaryDirectory()),
            "PORT": str(port),
            "HF_BASE_URL": f"http://127.0.0.1:{upstream}",
            "TEXT_MODELS": "org/model",
            "RATE_LIMIT_PER_MINUTE": "0",
            "AUTH_RATE_LIMIT_PER_MINUTE": "0",
            "LOG_LEVEL": "warning",
        }
        server = stack.enter_context(process("server", "serve", port=port, settings=settings, max_data_bytes=MAX_BYTES))
        tokens = [sign_up(port, f"bench{number}@example.com") for number in range(USERS)]
        uvloop.run(_run(f"http://127.0.0.1:{port}", upstream, server.pid, counts, tokens))
    print(load_average())


if __name__ == "__main__":
    main()
