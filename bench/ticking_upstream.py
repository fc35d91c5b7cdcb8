"""A model provider that streams at a steady rate. Each delta contains its number and the time at which it was sent.

The first word of a prompt is the number of deltas, the second their rate per second. The clock is the machine's
monotonic one, shared by all processes.

    python -m bench.ticking_upstream PORT
"""

import asyncio
import gc
import json
import random
import sys
import time

import uvloop
from aiohttp import web

from bench.slow_upstream import END, MAX_BODY_BYTES, delta


async def answer(request: web.Request) -> web.StreamResponse:
    prompt = json.loads(await request.read())["messages"][-1]["content"]
    count, per_second = (float(word) for word in prompt.split()[:2])
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    began = loop.time() + random.random() / per_second  # noqa: S311 - spreads the streams
    for number in range(int(count)):
        await asyncio.sleep(max(0.0, began + number / per_second - loop.time()))
        await response.write(delta(f"{number} {time.monotonic():.6f};", None))
    await response.write(delta("", "stop") + END)
    return response


def main() -> None:
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_post("/v1/chat/completions", answer)
    gc.freeze()
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, backlog=4096)


if __name__ == "__main__":
    main()
