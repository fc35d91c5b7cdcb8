"""Runs the project on a bare machine: Debian 12 with only what the README asks for, by `make run` and `make test`.

The users are an ordinary one, root with a checkout in /root, which nobody else may enter, and the same root where user
namespaces are forbidden and capabilities are few, as in a container. Each clone is of the last commit. No container
engine is needed; root and debootstrap are.

    python -m scripts.bare [--cache FOLDER]
"""

import argparse
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil

from scripts import debian
from scripts.client import call, free_port

PROJECT = Path(__file__).resolve().parent.parent
READY_TIMEOUT_S = 240.0
"""Includes the installation of the server's packages."""
STOP_TIMEOUT_S = 30.0
TEST_TIMEOUT_S = 800.0
"""CI runs them beside all others, at a lower priority."""
TESTS = (
    "tests/integration/embedded",
    "tests/acceptance/test_readme.py",
    "tests/acceptance/test_requests.py",
    "tests/faults/test_set_password.py",
)
"""The tests that depend most on the machine, and some that are skipped here."""

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_CAPABILITIES = (
    "-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,+net_bind_service,"
    "+sys_chroot,+kill,+audit_write"
)
"""The capabilities that root has by default in a container."""


@dataclass(frozen=True, slots=True)
class Case:
    title: str
    user: str
    home: str
    folder: str
    """The checkout, in the home of its user."""
    is_contained: bool = False


ORDINARY = Case("an ordinary user", "alice", "home/alice", "my projects/ai-sdk-server")
ROOT = Case("root, with user namespaces", "root", "root", "ai-sdk-server")
CONTAINED = Case("root, without user namespaces", "root", "root", "ai-sdk-server", is_contained=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="a folder that keeps Debian and the wheels between runs")
    options = parser.parse_args()
    debian.require_tools("bare")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # keeps the order with the machine's output
    with tempfile.TemporaryDirectory(prefix="bare-") as name:
        folder = Path(name)
        cache = options.cache.resolve() if options.cache else folder / "cache"
        debian.make_base(cache / "base")
        debian.download_wheels(PROJECT / "requirements-dev.txt", cache / "wheels")
        machine = Machine(folder / "root", cache / "wheels", folder / "log")
        machine.make(cache / "base")
        for case in (ORDINARY, ROOT, CONTAINED, ROOT):  # root's data is used by Postgres with different users
            machine.try_run(case)
        for case in (ORDINARY, CONTAINED):
            machine.try_tests(case)
    print("On a bare machine the server runs and the tests pass.")


@dataclass(frozen=True, slots=True)
class Machine:
    root: Path
    wheels: Path
    log: Path
    """The output of the last command."""

    def make(self, base: Path) -> None:
        """Debian with an ordinary user, and a clone of the project for each user."""
        debian.copy_base(base, self.root)
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n")  # as an installer or a container engine does
        debian.run(["chroot", str(self.root), "useradd", "--create-home", ORDINARY.user])
        for case in (ORDINARY, ROOT):
            home = self.root / case.home
            # Without hard links to the objects of this repository, whose owner would change with the clone's.
            debian.run(["git", "clone", "--quiet", "--no-hardlinks", str(PROJECT), str(home / case.folder)])
            debian.run(["chown", "-R", debian.ids(self.root, case.user), str(home)])
            home.chmod(0o700)

    def try_run(self, case: Case) -> None:
        """Run `make run`, sign up, send a request, and stop with SIGTERM."""
        port, began = free_port(), time.monotonic()
        with self._running(case, "make run", PORT=str(port)) as process:
            while not _is_healthy(port):
                if process.poll() is not None or time.monotonic() - began > READY_TIMEOUT_S:
                    self._fail(case, "make run does not get ready")
                time.sleep(0.1)
            credentials = {"email": f"bare-{secrets.token_hex(4)}@example.com", "password": "correct horse battery"}
            token = call(port, "POST", "/api/auth/signup", body=credentials)["token"]
            prompt = {"model_type": "text2text", "input_data": {"prompt": "hi"}}
            answer = call(port, "POST", "/api/requests", token=token, body=prompt)
            if answer["status"] != "completed":
                self._fail(case, f"a request ended {answer['status']}: {answer['error_msg']}")
            _server_below(process.pid).send_signal(signal.SIGTERM)
            if (code := process.wait(STOP_TIMEOUT_S)) != 0:
                self._fail(case, f"after SIGTERM make run ended with exit code {code}")
        print(f"make run as {case.title}: {time.monotonic() - began:.0f} s")

    def try_tests(self, case: Case) -> None:
        """Run `make test` with some of the tests, and print the skipped ones."""
        began = time.monotonic()
        with self._running(case, f"make test PYTEST_ARGS='{' '.join(TESTS)}'") as process:
            if process.wait(TEST_TIMEOUT_S) != 0:
                self._fail(case, "make test fails")
        print(f"make test as {case.title}: {time.monotonic() - began:.0f} s")
        print(self.log.read_text()[self.log.read_text().rfind("= left out =") :])

    @contextmanager
    def _running(self, case: Case, command: str, **env: str) -> "Iterator[subprocess.Popen[bytes]]":
        """Run a command in the checkout. Its process namespace ends with it, so no process survives."""
        env |= debian.OFFLINE_PIP | {"PATH": _PATH, "HOME": f"/{case.home}"}
        variables = [f"{name}={value}" for name, value in env.items()]
        shell = ["sh", "-c", f"umask 077 && cd '/{case.home}/{case.folder}' && {command}"]
        script = [f"mount --bind {self.root} {self.root}", *debian.mounts(self.root, wheels=self.wheels)]
        enter = ["chroot", f"--userspec={debian.ids(self.root, case.user)}"]
        if case.is_contained:  # the kernel gives no user namespace to a process in a chroot
            enter = ["setpriv", f"--bounding-set={_CAPABILITIES}", *enter, str(self.root)]
        else:
            script += [f"cd {self.root}", "pivot_root . mnt", "umount -l /mnt"]
            enter.append("/")
        script.append(shlex.join([*enter, "env", "-i", *variables, *shell]))
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", "\n".join(script)]
        with self.log.open("wb") as log:
            process = subprocess.Popen(unshare, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process
        except subprocess.TimeoutExpired as error:
            self._fail(case, f"{command}: not over within {error.timeout:g} s")
        finally:
            process.kill()
            process.wait()

    def _fail(self, case: Case, complaint: str) -> NoReturn:
        print(self.log.read_text())
        sys.exit(f"bare: {case.title}: {complaint}")


def _is_healthy(port: int) -> bool:
    try:
        call(port, "GET", "/health")
    except OSError:
        return False
    return True


def _server_below(pid: int) -> psutil.Process:
    """The server process that make has started."""
    processes = psutil.Process(pid).children(recursive=True)
    return next(process for process in processes if process.cmdline()[-2:] == ["server", "serve"])


if __name__ == "__main__":
    main()
