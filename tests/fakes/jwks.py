"""A project's `/.well-known/jwks.json`, which can be rotated, broken, slow and gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.fakes.signers import Signer

PATH = "/auth/v1/.well-known/jwks.json"


class KeyServer:
    """Publishes the public halves of `signers`; `fault` is what it answers instead."""

    def __init__(self, *signers: Signer) -> None:
        self.signers: list[Signer] = list(signers)
        self.fault: web.Response | None = None
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Event()
        self.url = ""

    @property
    def base_url(self) -> str:
        """As `SUPABASE_URL` would have it, with `/auth/v1`: the issuer of its tokens."""
        return self.url.removesuffix("/.well-known/jwks.json")

    def published(self) -> dict[str, Any]:
        return {"keys": [signer.jwk for signer in self.signers if signer.jwk is not None]}

    async def answer(self, _request: web.Request) -> web.Response:
        self.calls += 1
        self.called.set()
        await self.gate.wait()
        if self.fault is not None:
            return web.Response(status=self.fault.status, body=self.fault.body, headers=self.fault.headers)
        return web.json_response(self.published(), headers={"Cache-Control": "public, max-age=600"})


@asynccontextmanager
async def serve_keys(*signers: Signer) -> AsyncIterator[KeyServer]:
    """Serves them on loopback, until the end of the context."""
    keys = KeyServer(*signers)
    app = web.Application()
    app.router.add_get(PATH, keys.answer)
    async with TestServer(app) as server:
        keys.url = str(server.make_url(PATH))
        yield keys
        keys.gate.set()
