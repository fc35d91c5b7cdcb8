"""JSON responses."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from server.encoding import dumps
from server.http import keys


def json_response(data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return raw_json_response(dumps(data), status=status, headers=headers)


def raw_json_response(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response whose body is JSON already."""
    return web.Response(body=body, status=status, headers=headers, content_type="application/json", charset="utf-8")


def link_to(request: web.Request, path: str) -> str:
    """A reference for `Location` and `Link`: the path, below PUBLIC_URL where it is set."""
    return f"{request.app[keys.SETTINGS].public_url or ''}{path}"
