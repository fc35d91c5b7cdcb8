"""A line between a server and its Postgres which fails as networks, poolers and firewalls do."""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Self

_CHUNK = 64 * 1024
_COMMANDS = (b"INSERT ", b"UPDATE ")
_RESET = struct.pack("ii", 1, 0)


class Mode(Enum):
    PASS = auto()
    REFUSE = auto()
    """Open connections are reset, new ones too."""
    STALL = auto()
    """Nothing passes, and everything passes later: lost packets are sent again."""
    VOID = auto()
    """What is open and what is opened meanwhile is dead for good, and nobody is told."""


@dataclass(eq=False, slots=True)
class _Link:
    """One connection, both its ends."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_forgotten: bool = False

    def reset(self) -> None:
        for writer in (self.client, self.server):
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


@dataclass(slots=True)
class TcpProxy:
    """An async context manager; listens on 127.0.0.1 and connects to a unix socket."""

    target: Path
    lose_commits: int = 0
    """So many replies to a committed INSERT or UPDATE are thrown away, and their connections reset."""
    lost_commits: int = 0
    port: int = 0
    _mode: Mode = Mode.PASS
    _links: set[_Link] = field(default_factory=set)
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)
    _flows: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._flows.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.set(Mode.REFUSE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def set(self, mode: Mode) -> None:
        """From now on the line is like this."""
        self._mode = mode
        if mode is Mode.STALL:
            self._flows.clear()
        else:
            self._flows.set()
        if mode is Mode.REFUSE:
            self.reset()
        if mode is Mode.VOID:
            self.forget()

    def reset(self) -> None:
        """Reset every open connection."""
        for link in list(self._links):
            link.reset()

    def forget(self) -> None:
        """Every open connection is dead from now on, and nobody is told: a firewall that lost its table."""
        for link in self._links:
            link.is_forgotten = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        except OSError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is Mode.REFUSE:
            writer.transport.abort()
            return
        await self._flows.wait()
        behind, ahead = await asyncio.open_unix_connection(str(self.target))
        link = _Link(writer, ahead, is_forgotten=self._mode is Mode.VOID)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, ahead, link, is_reply=False))
                group.create_task(self._carry(behind, writer, link, is_reply=True))
        except* OSError:
            pass
        finally:
            self._links.discard(link)
            link.reset()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, *, is_reply: bool
    ) -> None:
        while chunk := await reader.read(_CHUNK):
            await self._flows.wait()
            if link.is_forgotten:
                continue
            if is_reply and self.lose_commits and _has_commit(chunk):
                self.lose_commits -= 1
                self.lost_commits += 1
                raise ConnectionResetError
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError


def _has_commit(chunk: bytes) -> bool:
    """Whether a CommandComplete of a writing statement is in there (PostgreSQL protocol 3.0: 'C', length, tag)."""
    return any(b"C\x00\x00\x00" in chunk and command in chunk for command in _COMMANDS)
