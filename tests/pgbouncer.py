"""PgBouncer before a test's Postgres, as the poolers of hosted databases are: no named statements, few connections."""

import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from server.storage.embedded.binaries import Binaries
from server.storage.embedded.os_user import choose_os_user
from tests import tools

_CONFIG = """
[databases]
* = host={socket} port=5432

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 500
query_wait_timeout = 20
server_lifetime = 3600
logfile = {folder}/log
pidfile =
{tls}
"""
_TLS = "client_tls_sslmode = require\nclient_tls_key_file = {0}/server.key\nclient_tls_cert_file = {0}/server.crt"
_TIMEOUT_S = 20.0


@dataclass(slots=True)
class PgBouncer:
    """One pooler before one cluster; `kill` and `start` are its outages. Its port stays the same."""

    folder: Path
    mode: str
    url: str
    port: int = 0
    size: int = 20
    certificate: tuple[bytes, bytes] | None = None
    """Key and certificate, as PEM, of a pooler that insists on TLS."""
    _process: "subprocess.Popen[bytes] | None" = field(default=None)

    def through(self, url: str) -> str:
        """The same database and role, by way of the pooler."""
        parts = urlsplit(url)
        return f"postgresql://{parts.username}:{quote(parts.password or '')}@127.0.0.1:{self.port}{parts.path}"

    def start(self) -> None:
        parts = urlsplit(self.url)
        config = self.folder / "pgbouncer.ini"
        [cluster] = parse_qs(parts.query)["host"]
        tls = "" if self.certificate is None else _TLS.format(self.folder)
        config.write_text(
            _CONFIG.format(socket=cluster, port=self.port, folder=self.folder, mode=self.mode, size=self.size, tls=tls)
        )
        for name, content in zip(("server.key", "server.crt"), self.certificate or (), strict=False):
            (self.folder / name).write_bytes(content)
        (self.folder / "users").write_text(f'"{parts.username}" "{parts.password}"\n')
        os_user = choose_os_user(self.folder / "data", Binaries.find())
        os_user.chown_tree(self.folder)
        program = tools.PGBOUNCER.require()
        self._process = subprocess.Popen(
            [*os_user.prefix, program, "-q", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _TIMEOUT_S
        while not self._answers():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(_TIMEOUT_S)
            self._process = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def running_pgbouncer(
    url: str, mode: str, *, size: int = 20, certificate: tuple[bytes, bytes] | None = None
) -> Iterator[PgBouncer]:
    """Before the cluster of this URL (whose host is a socket's folder), for its role, until the end of the context."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix=f"pgbouncer-{secrets.token_hex(2)}-"))
    pooler = PgBouncer(folder, mode, url, port, size, certificate)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.kill()
        shutil.rmtree(folder, ignore_errors=True)
