"""The optional programs: a test that needs one is skipped where it is missing. `make test-tools` installs them all.

python -m tests.tools
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Tool:
    """A program, by its path or, without a folder, by its name in PATH or /usr/sbin."""

    program: str
    package: str
    """Debian's package that brings it."""

    def find(self) -> Path | None:
        found = shutil.which(self.program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        return Path(found) if found else None

    def require(self) -> Path:
        """Where it is; where it is missing, the test that asks is skipped."""
        if found := self.find():
            return found
        pytest.skip(self.missing)

    @property
    def missing(self) -> str:
        return f"{self.package} is not installed"


PGBOUNCER = Tool("pgbouncer", "pgbouncer")
CHROMIUM = Tool("chromium", "chromium")
STRACE = Tool("strace", "strace")
POSTGRES_15 = Tool("/usr/lib/postgresql/15/bin/postgres", "postgresql-15")
FFMPEG = Tool("ffmpeg", "ffmpeg")
IMAGEMAGICK = Tool("convert", "imagemagick")
HEIF_ENC = Tool("heif-enc", "libheif-examples")
AVIFENC = Tool("avifenc", "libavif-bin")
NGINX = Tool("nginx", "nginx")
PROMETHEUS = Tool("prometheus", "prometheus")
"""The package also brings promtool."""
IP = Tool("ip", "iproute2")
ALL = (PGBOUNCER, CHROMIUM, STRACE, POSTGRES_15, FFMPEG, IMAGEMAGICK, HEIF_ENC, AVIFENC, NGINX, PROMETHEUS, IP)

INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends", *(tool.package for tool in ALL))
"""The one command that brings all of them."""


def needs(tool: Tool) -> pytest.MarkDecorator:
    return pytest.mark.skipif(tool.find() is None, reason=tool.missing)


if __name__ == "__main__":
    print(*INSTALL, flush=True)
    if os.geteuid() != 0:
        sys.exit("This needs root: sudo make test-tools")
    os.execvp(INSTALL[0], INSTALL)  # noqa: S606 - no shell is needed
