"""The origins that CORS allows, exact ones and patterns for subdomains and ports, and what they may send to a path."""

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import hdrs, web
from aiohttp_cors.urldispatcher_router_adapter import ResourcesUrlDispatcherRouterAdapter

_WILDCARDS = {"*.": r"(?:[a-z0-9_-]+\.)+", ":*": r"(?::[0-9]{1,5})?"}
_WILDCARD = re.compile(r"(?<=//)\*\.|:\*$")

Options = TypeVar("Options")


class AllowedOrigins(Mapping[str, Options]):
    """The same options for each allowed origin; aiohttp-cors looks a request's origin up in it.

    `https://*.example.com` allows every subdomain at any depth, not `example.com` itself. `http://localhost:*` allows
    every port and none. `*` alone allows every origin.
    """

    def __init__(self, origins: Sequence[str], options: Options) -> None:
        self._origins = origins
        self._options = options
        self._exact = frozenset(origin for origin in origins if not _WILDCARD.search(origin))
        self._patterns = [re.compile(_pattern(origin), re.ASCII) for origin in origins if _WILDCARD.search(origin)]

    def __getitem__(self, origin: str) -> Options:
        if origin in self._exact or any(pattern.fullmatch(origin) for pattern in self._patterns):
            return self._options
        raise KeyError(origin)

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __len__(self) -> int:
        return len(self._origins)


class CorsRouter(ResourcesUrlDispatcherRouterAdapter):
    """Lets aiohttp-cors look only at requests that have an `Origin`: the other ones are most, and get no headers.

    `preflights` has the options of a preflight for each prefix of a path; the first that fits applies.
    """

    def __init__(
        self,
        router: web.UrlDispatcher,
        origins: AllowedOrigins[Any],
        *,
        preflights: Mapping[str, AllowedOrigins[Any]],
    ) -> None:
        super().__init__(router, origins)
        self._preflights = preflights

    def is_cors_enabled_on_request(self, request: web.Request) -> bool:
        return hdrs.ORIGIN in request.headers and bool(super().is_cors_enabled_on_request(request))

    def add_preflight_handler(self, routing_entity: Any, handler: Any) -> None:  # type: ignore[override]
        """Answer preflights with 204, as there is no content; aiohttp-cors answers 200."""

        async def preflight(request: web.Request) -> web.Response:
            response: web.Response = await handler(request)
            response.set_status(HTTPStatus.NO_CONTENT)
            return response

        is_resource = isinstance(routing_entity, web.Resource)  # a route comes back as its resource
        super().add_preflight_handler(routing_entity, preflight if is_resource else handler)

    async def get_preflight_request_config(self, request: web.Request, origin: str, method: str) -> AllowedOrigins[Any]:
        """Raises `KeyError` for a method that the path does not have."""
        await super().get_preflight_request_config(request, origin, method)
        return next(options for prefix, options in self._preflights.items() if request.path.startswith(prefix))


def _pattern(origin: str) -> str:
    pattern, end = "", 0
    for match in _WILDCARD.finditer(origin):
        pattern += re.escape(origin[end : match.start()]) + _WILDCARDS[match[0]]
        end = match.end()
    return pattern + re.escape(origin[end:])
