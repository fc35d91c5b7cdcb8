"""The edge function in the real Deno, and the services of a project that it lives among: gateway, Auth, PostgREST."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from aiohttp import web

from tests.deno import DENO, ENVIRONMENT
from tests.fakes.gotrue import SERVICE, GoTrueFake, serve_gotrue
from tests.signals import until
from tests.supabase import Project

FUNCTION = Path(__file__).parents[2] / "supabase" / "functions" / "hf-inference"
_PATH = "/functions/v1/hf-inference"
_HOP_BY_HOP = {"transfer-encoding", "content-length", "connection", "keep-alive", "date", "server"}


@dataclass(slots=True)
class Platform:
    """A project on loopback. `kill` ends the function as the platform would, `start` begins it again."""

    project: Project
    secrets: dict[str, str]
    gotrue: GoTrueFake = field(init=False)
    rpc: list[str] = field(default_factory=list)
    _process: asyncio.subprocess.Process | None = None
    _port: int = 0

    @property
    def url(self) -> str:
        return self.gotrue.url

    async def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        given = {"SUPABASE_URL": self.url, "SUPABASE_SECRET_KEYS": json.dumps({"default": SERVICE})}
        self._process = await asyncio.create_subprocess_exec(
            *(DENO, "serve", "--quiet", "--config", "deno.json", "--allow-net=127.0.0.1", "--allow-env"),
            *("--host", "127.0.0.1", "--port", str(self._port), "index.ts"),
            cwd=FUNCTION,
            env=ENVIRONMENT | given | self.secrets,
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with aiohttp.ClientSession() as session:

            async def answers() -> bool:
                try:
                    async with session.options(f"http://127.0.0.1:{self._port}/"):
                        return True
                except aiohttp.ClientError:
                    return False

            await until(answers, within_s=60)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def extend(self, app: web.Application) -> None:
        app.router.add_route("*", _PATH, self._forward)
        app.router.add_post("/rest/v1/rpc/{name}", self._call)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        """As the platform's own gateway: streamed, and 503 while nothing runs."""
        kept = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP | {"host"}}
        try:
            async with (
                aiohttp.ClientSession(auto_decompress=False) as session,
                session.request(
                    request.method, f"http://127.0.0.1:{self._port}/", headers=kept, data=await request.read()
                ) as answer,
            ):
                headers = {name: text for name, text in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
                response = web.StreamResponse(status=answer.status, headers=headers)
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                return response
        except aiohttp.ClientConnectionError:
            if request.transport is not None:
                request.transport.abort()
            return web.json_response({"code": "BOOT_ERROR", "message": "Function failed to start"}, status=503)

    async def _call(self, request: web.Request) -> web.Response:
        """PostgREST: a function by its name with named arguments, in the role of the key."""
        name, args = request.match_info["name"], await request.json()
        self.rpc.append(name)
        places = ", ".join(f"{key} => ${number}" for number, key in enumerate(args, start=1))
        connection = await asyncpg.connect(self.project.url)
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL ROLE service_role")
                await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
                rows = await connection.fetch(f"SELECT * FROM public.{name}({places})", *args.values())  # noqa: S608
        finally:
            await connection.close()
        if name == "edge_record":
            return web.json_response(rows[0][0])
        return web.json_response([dict(row) for row in rows])


@asynccontextmanager
async def serve_platform(project: Project, hugging_face: str, **secrets: Any) -> AsyncIterator[Platform]:
    """The whole project, its function calling `hugging_face`, until the end of the context."""
    known = {"HF_BASE_URL": hugging_face, "HF_API_TOKEN": "hf_token_of_the_function", "MAX_RETRIES": "1"}
    platform = Platform(project, known | secrets)
    async with serve_gotrue(project.url, platform.extend) as gotrue:
        platform.gotrue = gotrue
        await platform.start()
        try:
            yield platform
        finally:
            await platform.kill()
