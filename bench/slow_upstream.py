"""A model provider with the latency that the prompt names. It answers with the time at which the answer was sent.

The first word of a prompt is the latency in seconds. The clock is the machine's monotonic one, shared by all processes.

    python -m bench.slow_upstream PORT
"""

import asyncio
import gc
import json
import sys
import time

import uvloop
from aiohttp import web

HEAD = {"id": "bench", "object": "chat.completion.chunk", "created": 1764000000, "model": "org/model"}
MAX_BODY_BYTES = 16 * 1024 * 1024
END = b"data: [DONE]\n\n"


async def answer(request: web.Request) -> web.StreamResponse:
    prompt = json.loads(await request.read())["messages"][-1]["content"]
    await asyncio.sleep(float(prompt[:40].split()[0]))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(delta(f"{time.monotonic():.6f}", None) + delta("", "stop") + END)
    return response


def delta(content: str, finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({**HEAD, "choices": [choice]}).encode() + b"\n\n"


def main() -> None:
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_post("/v1/chat/completions", answer)
    gc.freeze()
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, backlog=4096)


if __name__ == "__main__":
    main()
