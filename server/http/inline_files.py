"""The images of a chat's answer inside its response, for clients of `/v1`."""

from base64 import b64encode
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from server.http import keys
from server.http.responses import link_to
from server.model_request import RequestId

MAX_INLINE_BYTES = 16 * 1024 * 1024
"""Of the images of one answer. The response names the address of an image beyond it."""


async def inline_images(request: web.Request, request_id: RequestId, outcome: Mapping[str, Any]) -> list[str]:
    """The images of a completed request as `data:` URLs. Raises the errors of the store."""
    urls: list[str] = []
    left = MAX_INLINE_BYTES
    for entry in (outcome["output_data"] or {}).get("files") or ():
        if entry["size"] > left:
            urls.append(link_to(request, entry["url"]))
            continue
        left -= entry["size"]
        file = await request.app[keys.FILES].output(request[keys.PRINCIPAL].user_id, request_id, entry["number"])
        opened = await request.app[keys.OBJECTS].get(file.key)
        async with aclosing(opened.chunks) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        urls.append(f"data:{entry['content_type']};base64,{b64encode(data).decode()}")
    return urls
