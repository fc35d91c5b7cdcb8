"""Kills a server at the beginning of a chosen write: strace counts the writes and sends the signal."""

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.processes import ServerProcess

NEVER = 65_535
"""The greatest number that strace takes."""
_DEATH_TIMEOUT_S = 60.0

# Whatever can carry bytes to somebody else; uvloop uses write(2) alone.
_SENDS = "write,writev,sendto,sendmsg,sendmmsg,sendfile,splice"
_SEND = re.compile(rf"^(\d+) +({_SENDS.replace(',', '|')})\(\d+<([^>]*->[^>]*|[^>]*)>", re.MULTILINE)
_CUT = r"^{thread} +.* = \?$"
_KILLED = r"^{thread} +\+\+\+ killed by SIGKILL \+\+\+$"


@dataclass(frozen=True, slots=True)
class Strace:
    """Counts what the main thread of a server sends; its record begins anew at each start."""

    server: ServerProcess
    record: Path

    @contextlib.asynccontextmanager
    async def killing_at(self, number: int) -> AsyncIterator[bool]:
        """Run the server until it begins its send of this number, or for the block; tells whether it got ready."""
        # Not with --seccomp-bpf, under which strace 6.1 sends no signals.
        options = ("-f", "-yy", "-o", str(self.record), "-e", f"trace={_SENDS}")
        self.server.prefix = ("strace", *options, "-e", f"inject={_SENDS}:signal=KILL:when={number}")
        try:
            with contextlib.suppress(AssertionError):  # it may die before it is ready
                await asyncio.to_thread(self.server.start)
            yield self.server.is_running
        finally:
            await asyncio.to_thread(self.server.kill_all)
            self.server.prefix = ()

    async def prove_killed(self, number: int) -> str:
        """It died in its send of this number and by no other hand, or soon will; returns to whom that went.

        A server that nobody asks for anything goes on sending to its database.
        """
        assert await asyncio.to_thread(self.server.wait, _DEATH_TIMEOUT_S) == -signal.SIGKILL
        text = self.record.read_text(errors="replace")
        thread = text.split(maxsplit=1)[0]
        ends = [re.findall(pattern.format(thread=thread), text, re.MULTILINE) for pattern in (_CUT, _KILLED)]
        assert [len(found) for found in ends] == [1, 1], f"not killed in a send that never returned:\n{text[-2000:]}"
        targets = self.targets()
        assert len(targets) == number, f"not killed in this send:\n{text[-2000:]}"
        return targets[-1]

    def targets(self) -> list[str]:
        """To whom the main thread sent, in order."""
        found = _SEND.findall(self.record.read_text(errors="replace"))
        sends = [(syscall, target) for thread, syscall, target in found if thread == found[0][0]]
        assert {syscall for syscall, _ in sends} == {"write"}, "strace counts each system call for itself"
        return [self._name(target) for _, target in sends]

    def _name(self, target: str) -> str:
        if "->" in target:
            if target.startswith("UNIX"):
                return "Postgres"
            return "client" if f":{self.server.port}->" in target else "upstream"
        return "log" if target.endswith(".log") else "itself"
