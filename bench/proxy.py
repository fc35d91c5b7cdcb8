"""A minimal aiohttp proxy with uvloop, the baseline: a Python server cannot do less for a call.

python -m bench.proxy PORT UPSTREAM_PORT [CONNECTIONS]
"""

import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

UPSTREAM = web.AppKey("upstream", str)
CONNECTIONS = web.AppKey("connections", int)
SESSION = web.AppKey("session", aiohttp.ClientSession)


async def forward(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    headers = {"Content-Type": "application/json"}
    async with request.app[SESSION].post(request.app[UPSTREAM], data=body, headers=headers) as response:
        if response.content_type == "text/event-stream":
            return await _stream(request, response)
        return web.Response(body=await response.read(), status=response.status, content_type=response.content_type)


async def _stream(request: web.Request, response: aiohttp.ClientResponse) -> web.StreamResponse:
    """Forward the bytes as they arrive."""
    answer = web.StreamResponse(status=response.status, headers={"Content-Type": response.content_type})
    await answer.prepare(request)
    while chunk := await response.content.readany():
        await answer.write(chunk)
    return answer


async def session(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=app[CONNECTIONS])) as opened:
        app[SESSION] = opened
        yield


def main() -> None:
    app = web.Application()
    app[UPSTREAM] = f"http://127.0.0.1:{sys.argv[2]}/v1/chat/completions"
    app[CONNECTIONS] = int(sys.argv[3]) if len(sys.argv) > 3 else 256
    app.cleanup_ctx.append(session)
    app.router.add_post("/api/requests", forward)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, backlog=4096)


if __name__ == "__main__":
    main()
