"""Compresses JSON answers with gzip for clients that accept it."""

import asyncio
import functools
import gzip
import re

from aiohttp import hdrs, web

from server.http.large_responses import reserve_memory
from server.http.marks import marks_of

MIN_BYTES = 1024
"""Smaller answers fit into a packet as they are."""
_INLINE_BYTES = 32 * 1024
"""Larger bodies are compressed in a thread, outside the event loop."""
_LEVEL = 6
_SECRETS = frozenset({"auth", "keys"})
"""Segments of routes whose answers hold tokens. The size of a compressed answer tells what it has in common with text
of an attacker in it (BREACH)."""
_REFUSED = re.compile(r"q\s*=\s*0(?:\.0*)?", re.ASCII)


async def compress(request: web.Request, response: web.Response) -> None:
    """Compress a JSON body of more than `MIN_BYTES`. Streams, files and answers that hold tokens stay as they are.

    Raises `RateLimited` and `Unavailable` while large answers take too much memory.
    """
    body = response.body
    if not isinstance(body, bytes) or len(body) <= MIN_BYTES or response.content_type != "application/json":
        return
    resource = request.match_info.route.resource
    if resource is None or not _SECRETS.isdisjoint(resource.canonical.split("/")):
        return
    vary = response.headers.get(hdrs.VARY)
    response.headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING if vary is None else f"{vary}, {hdrs.ACCEPT_ENCODING}"
    if request.method == hdrs.METH_HEAD:
        return
    if _accepts_gzip(",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, []))):
        if marks_of(request.match_info.handler).is_always_up:
            response.body = _compress_shared(body)
        elif len(body) <= _INLINE_BYTES:
            response.body = _compress(body)
        else:
            with reserve_memory(request, len(body)):  # the body waits for a thread
                response.body = await asyncio.to_thread(_compress, body)
        response.headers[hdrs.CONTENT_ENCODING] = "gzip"


def _compress(body: bytes) -> bytes:
    return gzip.compress(body, _LEVEL, mtime=0)


_compress_shared = functools.lru_cache(maxsize=4)(_compress)
"""For public pages, so that a client without a token cannot spend processor time on them."""


def _accepts_gzip(header: str) -> bool:
    """Whether gzip is named, or `*` where gzip is not, with a quality above 0. Without the header it is not used."""
    is_accepted: dict[str, bool] = {}
    for item in header.lower().split(","):
        coding, *parameters = (part.strip() for part in item.split(";"))
        is_accepted[coding] = not any(_REFUSED.fullmatch(parameter) for parameter in parameters)
    return is_accepted.get("gzip", is_accepted.get("*", False))
