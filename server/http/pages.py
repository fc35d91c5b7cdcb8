"""Files of the console as responses: served from memory, with an ETag and a content security policy."""

import hashlib
from dataclasses import dataclass
from importlib import resources

from aiohttp import hdrs, web

from server.http.entity_tags import has_tag, weak_tag
from server.http.marks import Handler, always_up

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src blob:; media-src blob:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
PERMISSIONS_POLICY = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"
_MEDIA_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "json": "application/json"}


@dataclass(frozen=True, slots=True)
class Page:
    """A file served from memory. `etag` changes with its content."""

    body: bytes
    media_type: str
    etag: str


def read_page(name: str) -> Page:
    """A file of `server/console`, read once. aiohttp's static files are not used: they have leaked files before."""
    return make_page((resources.files("server") / "console" / name).read_bytes(), name.rpartition(".")[2])


def make_page(body: bytes, kind: str) -> Page:
    """`kind` is the file name's extension."""
    return Page(body, _MEDIA_TYPES[kind], weak_tag(hashlib.sha256(body).hexdigest()[:16]))


def serve(page: Page) -> Handler:
    """A handler that answers with `page`, or with 304 to a client that has it."""

    @always_up
    async def handle(request: web.Request) -> web.StreamResponse:
        return respond(request, page)

    return handle


def respond(request: web.Request, page: Page) -> web.Response:
    headers = {
        hdrs.ETAG: page.etag,
        hdrs.CACHE_CONTROL: "no-cache",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": PERMISSIONS_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    if has_tag(request, page.etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=page.body, content_type=page.media_type, charset="utf-8", headers=headers)
