"""Runs the script of a client and compares what it prints with what is expected."""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.v1.clients import DENO as DENO_ENVIRONMENT
from tests.clients.v1.clients import Client
from tests.clients.v1.expected import Check
from tests.deno import DENO, ENVIRONMENT
from tests.fixtures.results import PNG_BASE64

TIMEOUT_S = 300
_INHERITED = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "DENO_DIR", "NO_COLOR"})
_QUIET = {
    "ANONYMIZED_TELEMETRY": "False",
    "DISABLE_TELEMETRY": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "PYTHONWARNINGS": "ignore",
}
"""Keeps clients from calls to hosts of their makers."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server as a client sees it, and what its answers must be."""

    url: str
    key: str
    scenarios: Sequence[str]
    check: Check
    is_offline: bool = False


async def run(client: Client, target: Target, python: Path) -> dict[str, str | None]:
    """The fault of each scenario that the client has, None for a good one. `python` is for scripts in Python."""
    reasons = client.reasons_at(is_offline=target.is_offline)
    wanted = [name for name in target.scenarios if name not in reasons]
    if not wanted:
        return {}
    lines, problems = await _run_script(
        _command(client, python), [target.url, target.key, _IMAGE, *wanted], client.path
    )
    outcomes = {line["scenario"]: line for line in lines}
    missing = {"problem": f"its script ended before:\n{problems}"}
    return {name: _fault(outcomes.get(name, missing), name, target.check) for name in wanted}


_IMAGE = f"data:image/png;base64,{PNG_BASE64}"


def _command(client: Client, python: Path) -> list[str]:
    if client.environment == DENO_ENVIRONMENT:
        return [
            str(DENO),
            "run",
            "--quiet",
            "--frozen",
            "--no-check",
            "--allow-net",
            "--allow-env",
            "--allow-read",
            "--allow-sys",
        ]
    return [str(python), "-B"]


async def _run_script(command: Sequence[str], arguments: Sequence[str], path: Path) -> tuple[list[Any], str]:
    """The JSON lines of a script, and all that it said beside them."""
    environment = {name: value for name, value in (os.environ | ENVIRONMENT).items() if name in _INHERITED}
    process = await asyncio.create_subprocess_exec(
        *command, path.name, *arguments,
        cwd=path.parent, env=environment | _QUIET, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(TIMEOUT_S):
            said, problems = await process.communicate()
    except TimeoutError:
        said, problems = b"", f"It did not end within {TIMEOUT_S} s.".encode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = said.decode().splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"scenario"')], (said + problems).decode()


def _fault(outcome: Any, name: str, check: Check) -> str | None:
    return outcome.get("problem") or check(name, outcome.get("result"))
