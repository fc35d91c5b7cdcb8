"""A model provider that answers at once with the same JSON: what is measured against it is the server's own work."""

import sys

from aiohttp import web

ANSWER = (
    b'{"id":"bench","object":"chat.completion","created":1764000000,"model":"org/model","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":12,"completion_tokens":10,"total_tokens":22}}'
)


async def complete(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


def main() -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
