"""Entity tags (RFC 9110, 8.8.3), compared weakly, as clients send them back through proxies that compress."""

import re

from aiohttp import hdrs, web

_TAG = re.compile(r'(?:W/)?("[^"]*?)(?:(?:--?|;)(?:gzip|br|zstd|deflate))?"')
"""Apache's mod_deflate and others append the coding to the tag, and do not remove it from what the client sends."""


def weak_tag(value: str) -> str:
    """For a response that a proxy or this server may compress: its bytes differ, its meaning does not."""
    return f'W/"{value}"'


def has_tag(request: web.Request, *tags: str) -> bool:
    """Whether `If-None-Match` names one of these tags, each as in `ETag`, or is `*`."""
    return "*" in (known := known_tags(request)) or not known.isdisjoint(map(opaque, tags))


def known_tags(request: web.Request) -> set[str]:
    """The tags of `If-None-Match` in the form of `opaque`; empty without the header."""
    items = (item.strip() for item in ",".join(request.headers.getall(hdrs.IF_NONE_MATCH, [])).split(","))
    return {opaque(item) for item in items if item}


def opaque(tag: str) -> str:
    """The tag in quotes, without its weakness and the suffix of a proxy. Other text stays as it is."""
    match = _TAG.fullmatch(tag)
    return tag if match is None else f'{match[1]}"'
