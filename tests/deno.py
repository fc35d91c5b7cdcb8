"""The Deno of the development packages, and what its scripts import from npm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DENO = Path(sys.executable).parent / "deno"
ENVIRONMENT = os.environ | {"DENO_DIR": str(DENO.parents[1] / "deno"), "NO_COLOR": "1"}
UNREACHABLE = "the npm registry is not reachable"
_TIMEOUT_S = 180


def fetch_packages(script: Path) -> None:
    """Fetch the imports of `script`, pinned by the lock file in its folder. Skip the test if npm is not reachable."""
    done = subprocess.run(
        [DENO, "cache", "--quiet", "--frozen", script.name],
        cwd=script.parent,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode and "error sending request" in done.stderr:
        pytest.skip(UNREACHABLE)
    assert done.returncode == 0, done.stderr
