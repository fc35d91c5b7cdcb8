"""The environments of the Python clients: `.venv/clients/NAME`, installed from `python/NAME.txt`."""

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.clients.v1.clients import HERE

ROOT = Path(sys.prefix) / "clients"
_TIMEOUT_S = 1200
_UNREACHABLE = ("connection broken by", "Failed to establish a new connection", "ProxyError")


class Unreachable(Exception):
    """The package index does not answer."""


def python_of(environment: str) -> Path:
    """The interpreter of an environment, which is installed first if its pins changed. Raises `Unreachable`."""
    folder, pins = ROOT / environment, HERE / "python" / f"{environment}.txt"
    python, stamp = folder / "bin/python", folder / ".pins"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"Installing {pins.name} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=_TIMEOUT_S)
        _install(python, pins)
        stamp.write_text(digest)
    return python


def _install(python: Path, pins: Path) -> None:
    """Wheels only, as for the server itself: nothing from an index is executed."""
    options = ("--disable-pip-version-check", "--no-input", "--quiet", "--retries", "2", "--only-binary", ":all:")
    done = subprocess.run(
        [python, "-m", "pip", "install", *options, "--require-hashes", "-r", pins],
        capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode and any(words in done.stderr for words in _UNREACHABLE):
        raise Unreachable("the package index is not reachable")
    if done.returncode:
        sys.exit(done.stderr)
