"""File descriptors: raises their limit, derives the connection limit from it, and logs exhaustion."""

import asyncio
import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

import structlog

from server.http.connections import MAX_CONNECTIONS, RESERVE, RareReport

OTHER_DESCRIPTORS = 128
"""For files, database connections and the rest."""
_PROBE_S = 1.0
_FIX = "allow more open files: ulimit -n, docker run --ulimit nofile=, or LimitNOFILE= in systemd"

log = structlog.get_logger(__name__)


def raise_limit() -> int | None:
    """Raise the soft limit of open files to the hard limit. Returns the new limit; None means unlimited."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS allows less than it reports
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return None if soft == resource.RLIM_INFINITY else soft


def connections_within(descriptors: int | None, *, upstream: int) -> int:
    """The number of client connections that leaves descriptors for the rest.

    The rest is `RESERVE`, `upstream` connections to models, and `OTHER_DESCRIPTORS`.
    """
    if descriptors is None:
        return MAX_CONNECTIONS
    left = descriptors - RESERVE - upstream - OTHER_DESCRIPTORS
    limit = min(MAX_CONNECTIONS, max(left, descriptors // 4))
    if limit < MAX_CONNECTIONS:
        log.warning("connections_limited", limit=limit, instead_of=MAX_CONNECTIONS, open_files=descriptors, fix=_FIX)
    return limit


@contextlib.contextmanager
def reporting_exhaustion() -> Iterator[None]:
    """Log at most once a minute when no descriptor is left.

    asyncio's loop reports each failed accept, up to a thousand in a row. uvloop reports none, because libuv closes the
    connections that wait to be accepted. So a probe opens a descriptor every second.
    """
    loop = asyncio.get_running_loop()
    report = RareReport(lambda counts: log.error("out_of_file_descriptors", **counts, fix=_FIX))

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if _is_exhaustion(context.get("exception")):
            report.count("accepts_failed")
        else:
            loop.default_exception_handler(context)

    async def probe() -> None:
        while True:
            await asyncio.sleep(_PROBE_S)
            try:
                os.close(os.open(os.sep, os.O_RDONLY))
            except OSError as error:
                if _is_exhaustion(error):
                    report.count("probes_failed")

    probing = asyncio.create_task(probe(), name="descriptor-probe")
    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(None)
        probing.cancel()


def _is_exhaustion(error: object) -> bool:
    return isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}
