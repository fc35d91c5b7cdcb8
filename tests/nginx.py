"""A real nginx with the blocks of docs/proxies.md, on a loopback port, in front of a server process."""

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests import tools

PAGE = Path(__file__).parents[1] / "docs" / "proxies.md"
_BLOCK = re.compile(r"^```nginx\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log notice;
events {{ worker_connections 512; }}
http {{
access_log off;
client_body_temp_path {folder}/body;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi;
{blocks}
}}
"""
_TIMEOUT_S = 20.0


def documented() -> str:
    """The first block of the page, with the location of the second block, which has a path prefix."""
    whole, below_a_path = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    return str(whole.rstrip().removesuffix("}") + below_a_path + "}\n")


def without(blocks: str, directive: str) -> str:
    """The blocks as they are without the lines of a directive, which then has nginx's own default."""
    lines = blocks.splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith((f"{directive} ", f"{directive};"))]
    assert len(kept) < len(lines), f"the page has no {directive}"
    return "".join(kept)


def value_of(blocks: str, directive: str) -> str:
    [value] = re.findall(rf"^\s*{directive} ([^;]+);", blocks, re.MULTILINE)
    return str(value)


@contextlib.contextmanager
def running_nginx(folder: Path, blocks: str, *, upstream: int) -> Iterator[int]:
    """The port of an nginx with these blocks, before the server at `upstream`, until the end of the context."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(exist_ok=True)
    for line, ours in (("listen 80;", f"listen 127.0.0.1:{port};"), ("127.0.0.1:3000", f"127.0.0.1:{upstream}")):
        assert blocks.count(line) == 1
        blocks = blocks.replace(line, ours)
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, blocks=blocks), encoding="utf-8")
    program = tools.NGINX.require()
    errors = folder / "error.log"
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(config), "-e", str(errors)],
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while not _answers(port):
            assert process.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < deadline, errors.read_text()
            time.sleep(0.02)
        yield port
        said = (folder / "output").read_text()
        assert "[warn]" not in said, said
    finally:
        process.terminate()
        try:
            process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_TIMEOUT_S)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
