"""A model provider that answers at once with a fixed answer, so that only the server's own work is measured.

python -m bench.upstream PORT json|sse
"""

import json
import sys
from collections.abc import Awaitable, Callable

from aiohttp import web

DELTAS = 200
PIECES = 8
"""Number of writes for a stream: a provider this fast sends several deltas in one write."""
USAGE = {"prompt_tokens": 12, "completion_tokens": DELTAS, "total_tokens": 12 + DELTAS}
HEAD = {"id": "bench", "created": 1764000000, "model": "org/model"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _document() -> bytes:
    message = {"role": "assistant", "content": "The quick brown fox jumps over the lazy dog."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


def _events() -> list[bytes]:
    deltas = [{"index": 0, "delta": {"content": f"word{number} "}} for number in range(DELTAS)]
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks = [{**HEAD, "object": "chat.completion.chunk", "choices": [choice]} for choice in [*deltas, last]]
    chunks.append({**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks] + [b"data: [DONE]\n\n"]


def answer_json() -> Handler:
    document = _document()

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.Response(body=document, content_type="application/json")

    return answer


def answer_sse() -> Handler:
    events = _events()
    size = len(events) // PIECES + 1
    pieces = [b"".join(events[start : start + size]) for start in range(0, len(events), size)]

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    return answer


def main() -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", {"json": answer_json, "sse": answer_sse}[sys.argv[2]]())
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, backlog=4096)


if __name__ == "__main__":
    main()
