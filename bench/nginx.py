"""A model provider that costs next to nothing: nginx sends files that hold the answers (11 to 16 us for each call)."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONFIGURATION = """
daemon off;
worker_processes 1;
error_log stderr crit;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/unused; fastcgi_temp_path {folder}/unused;
    uwsgi_temp_path {folder}/unused; scgi_temp_path {folder}/unused;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {folder};
        types {{ }}
        default_type {content_type};
        location / {{ error_page 405 =200 $uri; }}  # a file answers a POST
    }}
}}
"""


@contextmanager
def provider(port: int, folder: Path, *, answer: bytes, content_type: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Answer every chat completion with these bytes, for as long as the block lasts."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        sys.exit("nginx answers in place of a provider and is missing: apt-get install nginx-light wrk")
    (folder / "v1/chat").mkdir(parents=True)
    (folder / "v1/chat/completions").write_bytes(answer)
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, port=port, content_type=content_type))
    folder.chmod(0o755)  # the worker may be another user
    child = subprocess.Popen([program, "-p", str(folder), "-c", str(configuration)])  # noqa: S603 - found above
    try:
        yield child
    finally:
        child.terminate()
        child.wait(10)
