"""The operations that concern the server itself: health, documentation, the console."""

from server import __version__
from server.errors import ServerFault
from server.openapi.operation import Operation
from server.openapi.parts import empty_answer, json_answer
from server.openapi.schemas import ref

_HEALTH_EXAMPLE = {
    "status": "ok",
    "version": __version__,
    "checks": {"accepting": True, "lease": True, "database": True},
    "backend": "offline",
    "model": "offline/echo",
    "upstream": {"ok": True, "detail": "The offline test double is always there. It is not AI."},
    "running": 0,
    "capacity": 64,
    "instances": 1,
    "files_shared": True,
}

SERVICE = (
    Operation(
        "health",
        "get",
        "/health",
        "Operation",
        "How the server is, for the platform's probe",
        {
            "200": json_answer(
                "Up. A database that is away only degrades: a restart would not bring it back.",
                ref("Health"),
                examples={"ok": _HEALTH_EXAMPLE},
                is_limited=False,
            ),
            "503": json_answer(
                "Not ready for the first time yet, or stopping.",
                ref("Health"),
                examples={"starting": _HEALTH_EXAMPLE | {"status": "starting", "upstream": None}},
                is_limited=False,
            ),
        },
        problems=(ServerFault,),
        is_public=True,
    ),
    Operation(
        "live",
        "get",
        "/health/live",
        "Operation",
        "Whether the process answers",
        {"200": json_answer("It does.", ref("Liveness"), examples={"ok": {"status": "ok"}}, is_limited=False)},
        problems=(ServerFault,),
        is_public=True,
    ),
    Operation(
        "ready",
        "get",
        "/health/ready",
        "Operation",
        "Whether it can take work now",
        {
            "200": json_answer(
                "It can.", ref("Readiness"), examples={"ok": {"status": "ok", "failing": []}}, is_limited=False
            ),
            "503": json_answer(
                "It cannot, because of what is failing.",
                ref("Readiness"),
                examples={"database": {"status": "unavailable", "failing": ["database"]}},
                is_limited=False,
            ),
        },
        problems=(ServerFault,),
        is_public=True,
    ),
    Operation(
        "index",
        "get",
        "/",
        "Operation",
        "The console for people, an index for machines",
        {
            "200": json_answer(
                "JSON where `Accept` asks for it and not for HTML, else the page.",
                ref("Index"),
                examples={
                    "index": {
                        "name": "ai-sdk-server",
                        "version": __version__,
                        "docs": "/docs",
                        "openapi": "/openapi.json",
                        "health": "/health",
                    }
                },
                header_names=("Vary",),
                is_limited=False,
            ),
            "304": empty_answer("The page is unchanged.", "ETag", "Vary"),
        },
        problems=(ServerFault,),
        is_public=True,
    ),
    Operation(
        "openapi",
        "get",
        "/openapi.json",
        "Operation",
        "This document",
        {
            "200": {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}},
            "304": empty_answer("Unchanged.", "ETag"),
        },
        problems=(ServerFault,),
        is_public=True,
    ),
    Operation(
        "docs",
        "get",
        "/docs",
        "Operation",
        "This document as a page",
        {
            "200": {"description": "A web page.", "content": {"text/html": {"schema": {"type": "string"}}}},
            "304": empty_answer("Unchanged.", "ETag"),
        },
        problems=(ServerFault,),
        is_public=True,
    ),
)
