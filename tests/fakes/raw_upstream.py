"""An upstream of which a test decides every byte, and which notes when its client goes."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Self

Play = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.head = b""
        self.body = bytearray()
        self.requests = 0
        self._read = asyncio.Condition()

    async def wait_requests(self, count: int) -> None:
        """Until the heads of so many requests were read."""
        async with self._read:
            await self._read.wait_for(lambda: self.requests >= count)

    async def read_head(self) -> bytes:
        """The request line and the headers."""
        self.head = await self._reader.readuntil(b"\r\n\r\n")
        async with self._read:
            self.requests += 1
            self._read.notify_all()
        return self.head

    async def read_request(self) -> bytes:
        """Head and body, of the length that the head announces. Returns the body."""
        head = await self.read_head()
        length = next(
            (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b"content-length: 0"
        )
        body = await self._reader.readexactly(int(length.partition(b":")[2]))
        self.body += body
        return body

    async def read_to_end(self) -> None:
        """Whatever else comes, until the client is gone, in order or not."""
        try:
            while chunk := await self._reader.read(65536):
                self.body += chunk
        except ConnectionError:
            pass

    async def read_some(self) -> bytes:
        """What has come; raises `ConnectionResetError` at the end."""
        chunk = await self._reader.read(65536)
        if not chunk:
            raise ConnectionResetError
        return chunk

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()

    async def send_chunk(self, data: bytes) -> None:
        """One chunk of a body that is sent in chunks."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def reset(self) -> None:
        """Close the connection by a reset: what is under way is lost."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()


class RawUpstream:
    """Plays `play` on every connection. An async context manager."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._tasks: set[asyncio.Task[None]] = set()
        self.peers: list[Peer] = []
        self.connected = asyncio.Event()
        self.left = asyncio.Event()
        """Set when `play` has come to its end, which it does at the latest when the client goes."""
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self.connected.set()
        try:
            await self._play(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            self.left.set()
            writer.close()
