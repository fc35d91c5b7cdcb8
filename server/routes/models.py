"""The model types with their parameters, and the models that upstream lists at the moment."""

import functools
import hashlib
from typing import Any

import orjson
from aiohttp import hdrs, web

from server.auth.principal import Scope
from server.catalog import Catalog
from server.encoding import dumps
from server.http import keys
from server.http.entity_tags import has_tag, weak_tag
from server.http.responses import raw_json_response
from server.inference.events import Listing
from server.openapi import parts
from server.openapi.objects import ModelsObject
from server.openapi.operation import Operation, Route


def routes() -> tuple[Route, ...]:
    answers = {
        "200": parts.json_answer(
            "The model types that this server offers, and the models of upstream.", ModelsObject, "ETag"
        ),
        "304": parts.empty_answer("Unchanged.", "ETag"),
    }
    about = "The listing is kept for ten minutes, and shown as stale while no newer one can be had."
    operation = Operation("list_models", "The model types and the models on offer", answers, about, scope=Scope.READ)
    return (Route("Models", "GET", "/api/models", list_models, operation),)


async def list_models(request: web.Request) -> web.Response:
    """The catalog of this server and the live listing; null where upstream has none, or has not answered in time."""
    listing = await request.app[keys.UPSTREAM].listing()
    body = dumps({"model_types": _described(request.app[keys.CATALOG]), "live": _live(listing)})
    etag = weak_tag(hashlib.sha256(body).hexdigest()[:16])
    headers: dict[str, str] = {hdrs.ETAG: etag, hdrs.CACHE_CONTROL: "private, no-cache"}
    if has_tag(request, etag):
        return web.Response(status=304, headers=headers)
    return raw_json_response(body, headers=headers)


@functools.lru_cache(maxsize=1)
def _described(catalog: Catalog) -> orjson.Fragment:
    """Made once: dozens of schemas take longer than anything else here, and never change."""
    return orjson.Fragment(dumps(catalog.describe()))


def _live(listing: Listing | None) -> dict[str, Any] | None:
    if listing is None:
        return None
    return {"fetched_at": listing.fetched_at, "is_stale": listing.is_stale, "models": listing.models}
