"""Is it alive, is it ready, and how is it: for the platform, for operators, for the console. Never calls upstream."""

import functools
from typing import Any

from aiohttp import web

from server import __version__
from server.http import keys
from server.http.marks import always_up
from server.http.responses import json_response
from server.inference.events import UpstreamFault
from server.lifecycle import Phase
from server.openapi import parts
from server.openapi.objects import HealthObject, LivenessObject, ReadinessObject, example_of
from server.openapi.operation import Operation, Route

_UPSTREAM_STATES = {
    None: "The models can be used.",
    UpstreamFault.UNREACHABLE: "The model provider does not answer.",
    UpstreamFault.TOKEN_REFUSED: "The model provider refuses the server's token.",
    UpstreamFault.NO_PERMISSION: "The server's token may not use the models.",
    UpstreamFault.NO_CREDITS: "The server's account at the model provider has no credits left.",
    UpstreamFault.UNEXPECTED: "The model provider does not answer as expected.",
}
"""For strangers. The log and `doctor` tell the operator more: addresses, and what the provider said."""


def routes() -> tuple[Route, ...]:
    route = functools.partial(Route, "Operation")
    starting = example_of(HealthObject) | {"status": "starting", "upstream": None}
    failing = {"status": "unavailable", "failing": ["database"]}
    shown = {
        "200": parts.json_answer(
            "Up. A database that is away only degrades: a restart would not bring it back.", HealthObject
        ),
        "503": parts.json_answer(
            "Not ready for the first time yet, or stopping.", HealthObject, examples={"starting": starting}
        ),
    }
    is_ready = {
        "200": parts.json_answer("It can.", ReadinessObject),
        "503": parts.json_answer(
            "It cannot, because of what is failing.", ReadinessObject, examples={"database": failing}
        ),
    }
    is_live = {"200": parts.json_answer("It does.", LivenessObject)}
    return (
        route("GET", "/health", health, Operation("health", "How the server is, for the platform's probe", shown)),
        route("GET", "/health/live", live, Operation("live", "Whether the process answers", is_live)),
        route("GET", "/health/ready", ready, Operation("ready", "Whether it can take work now", is_ready)),
    )


@always_up
async def live(_request: web.Request) -> web.Response:
    """The event loop answers."""
    return json_response({"status": "ok"})


@always_up
async def ready(request: web.Request) -> web.Response:
    """Fit to take work now: started, not stopping, with a lease and a database that takes writes."""
    failing = [name for name, is_ok in _checks(request.app).items() if not is_ok]
    return json_response(
        {"status": "unavailable" if failing else "ok", "failing": failing}, status=503 if failing else 200
    )


@always_up
async def health(request: web.Request) -> web.Response:
    """For the platform's probe. Once ready, a database that is away only degrades: no restart would bring it back."""
    app = request.app
    phase = app[keys.LIFECYCLE].phase
    checks = _checks(app)
    is_up = phase is Phase.READY
    status = "ok" if all(checks.values()) else "degraded"
    engine = app[keys.ENGINE]
    body: dict[str, Any] = {
        "status": status if is_up else phase,
        "version": __version__,
        "checks": checks,
        "backend": app[keys.SETTINGS].backend,
        "model": next(iter(app[keys.CATALOG].chain("text2text", None)), None),
        "upstream": None,
        "sign_ups": app[keys.SETTINGS].sign_up_policy,
        "running": len(engine.workload),
        "capacity": engine.slots.capacity,
        "instances": engine.lease.live_instances,
        "files_shared": not engine.lease.other_stores,
    }
    if (state := engine.upstream_state) is not None:
        body["upstream"] = {"ok": state.is_ok, "detail": _UPSTREAM_STATES[state.fault]}
    return json_response(body, status=200 if is_up else 503)


def _checks(app: web.Application) -> dict[str, bool]:
    engine = app[keys.ENGINE]
    return {
        "accepting": app[keys.LIFECYCLE].phase is Phase.READY,
        "lease": engine.lease.is_trusted,
        "database": engine.has_database,
    }
