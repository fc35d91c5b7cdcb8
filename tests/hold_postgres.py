"""A stand-in for the server, to be killed: `python -m tests.hold_postgres DATA_DIR` holds an embedded Postgres open.

Prints one JSON line when it is ready, and lives until it is told to stop. What prevents the start goes to stderr.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import uvloop

from server.storage.embedded.postgres import EmbeddedPostgres, EmbeddedPostgresError


async def _hold(data_dir: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with EmbeddedPostgres(data_dir) as postgres:
        print(json.dumps({"url": postgres.url, "postmaster": postgres.pid, "uid": os.geteuid()}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_hold(Path(sys.argv[1])))
    except EmbeddedPostgresError as error:
        sys.exit(error.message)
