"""An archive: a compressed tar that is written atomically, and read to its end before its content is used."""

import asyncio
import contextlib
import gzip
import os
import tarfile
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import orjson

from server import __version__
from server.encoding import dumps
from server.errors import CannotStart

VERSION = 1
MAX_PAGE_BYTES = 256 * 1024 * 1024
"""More than `export` puts into one page: a larger one was not written by this program."""
_MANIFEST = "manifest.json"
_END = "end.json"
_FORMAT = "ai-sdk-server"
_COMPRESSION = 3
"""Saves three quarters as much as level 9, in a tenth of the time."""
_CHUNK_BYTES = 256 * 1024

Kind = Literal["export", "backup"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The first member: what the archive is."""

    kind: Kind
    created_at: datetime
    about: dict[str, Any]


class ArchiveWriter:
    """An async context manager. The file gets its name if the block succeeds, and is removed if it fails.

    Only its owner can read it. Raises `CannotStart` if the file exists or cannot be written.
    """

    def __init__(self, path: Path, kind: Kind, about: dict[str, Any]) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._manifest = {
            "format": _FORMAT,
            "version": VERSION,
            "kind": kind,
            "created_at": datetime.now(UTC).isoformat(),
            "written_by": __version__,
            "about": about,
        }
        self._members = 0
        self._file: IO[bytes] | None = None

    async def __aenter__(self) -> Self:
        if self._path.exists():
            raise CannotStart(f"{self._path} exists already: name another file, or move that one away.")
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise CannotStart(f"{self._path} cannot be written ({error.strerror}): name another place.") from None
        os.fchmod(descriptor, 0o600)
        self._raw = os.fdopen(descriptor, "wb")
        self._zip = gzip.GzipFile(filename="", mode="wb", compresslevel=_COMPRESSION, fileobj=self._raw)
        await self.add(_MANIFEST, dumps(self._manifest))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.add(_END, dumps({"members": self._members}))
                await asyncio.to_thread(self._finish)
        except OSError as failure:
            raise CannotStart(f"{self._path} cannot be written ({failure.strerror}).") from failure
        finally:
            self._raw.close()
            self._part.unlink(missing_ok=True)

    async def add(self, name: str, content: bytes) -> None:
        """Add one member from memory."""

        async def pieces() -> AsyncIterator[bytes]:
            yield content

        await self.add_stream(name, len(content), pieces())

    async def add_stream(self, name: str, size: int, chunks: AsyncIterable[bytes]) -> None:
        """Add one member of `size` bytes. Raises `ValueError` if the chunks have another size."""
        header = tarfile.TarInfo(name)
        header.size, header.mode = size, 0o600
        await self._write(header.tobuf(tarfile.PAX_FORMAT))
        left = size
        async for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                break
            await self._write(chunk)
        if left:
            raise ValueError(f"{name} changed while it was read")
        await self._write(bytes(-size % tarfile.BLOCKSIZE))
        self._members += 1

    async def _write(self, data: bytes) -> None:
        """Compress in a thread, so that the event loop stays free for the database."""
        try:
            await asyncio.to_thread(self._zip.write, data)
        except OSError as error:
            raise CannotStart(f"{self._path} cannot be written ({error.strerror}).") from error

    def _finish(self) -> None:
        self._zip.write(bytes(2 * tarfile.BLOCKSIZE))
        self._zip.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._part.rename(self._path)


@dataclass(slots=True)
class Member:
    """One file in an archive. Read it before the next member is requested."""

    name: str
    size: int
    content: IO[bytes]
    archive: Path

    async def read(self) -> bytes:
        """The whole content. Raises `CannotStart` beyond `MAX_PAGE_BYTES`."""
        if self.size > MAX_PAGE_BYTES:
            raise _damaged(f"{self.name} claims {self.size} bytes")
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        while chunk := await _attempt(self.archive, self.content.read, _CHUNK_BYTES):
            yield chunk


class ArchiveReader:
    """Reads a file of `ArchiveWriter`. Every fault of the file raises a `CannotStart` of one line."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self._path = path
        self._kind = kind

    async def check(self) -> Manifest:
        """Read the whole archive, and verify its checksums and the number of members."""
        manifest: Manifest | None = None
        count, is_ended = 0, False
        async for member in self._members():
            if is_ended:
                raise _damaged("something follows its end")
            if manifest is None:
                manifest = self._read_manifest(member.name, await member.read())
            elif member.name == _END:
                is_ended = True
                if _parse(await member.read()) != {"members": count}:
                    raise _damaged("members are missing")
            else:
                async for _ in member.chunks():
                    pass
            count += 1
        if manifest is None or not is_ended:
            raise _damaged("its end is missing")
        return manifest

    async def members(self) -> AsyncIterator[Member]:
        """All members except the manifest and the end marker."""
        async for member in self._members():
            if member.name not in {_MANIFEST, _END}:
                yield member

    async def _members(self) -> AsyncIterator[Member]:
        """Read through `gzip`, which verifies its checksum at the end; `tarfile`'s own stream mode does not."""
        with contextlib.ExitStack() as stack:
            unzipped = stack.enter_context(await _attempt(self._path, gzip.open, self._path))
            archive = await _attempt(self._path, lambda: tarfile.open(fileobj=unzipped, mode="r|"))  # noqa: SIM115
            stack.enter_context(archive)
            while (found := await _attempt(self._path, archive.next)) is not None:
                content = archive.extractfile(found) if found.isreg() else None
                if content is None:
                    raise _damaged(f"{found.name!r} is not a file")
                yield Member(found.name, found.size, content, self._path)
                archive.members = []  # tarfile keeps every member in memory otherwise
            while await _attempt(self._path, unzipped.read, _CHUNK_BYTES):
                pass

    def _read_manifest(self, name: str, content: bytes) -> Manifest:
        data = _parse(content) if name == _MANIFEST else None
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise CannotStart(f"{self._path} was not made by `export` or `backup`.")
        if data.get("version") != VERSION:
            raise CannotStart(f"{self._path} was made by a newer server: use that one.")
        try:
            manifest = Manifest(data["kind"], datetime.fromisoformat(data["created_at"]), data["about"])
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged("its manifest is invalid") from error
        if manifest.kind != self._kind:
            command = "restore" if manifest.kind == "backup" else "import"
            raise CannotStart(f"{self._path} was made by `{manifest.kind}`: use `{command}`.")
        return manifest


async def _attempt(path: Path, read: Callable[..., Any], *args: Any) -> Any:
    """Read in a thread, because decompression takes time. Raises `CannotStart` for faults of the file."""
    try:
        return await asyncio.to_thread(read, *args)
    except FileNotFoundError:
        raise CannotStart(f"There is no file {path}.") from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(type(error).__name__) from error
    except OSError as error:
        raise CannotStart(f"{path} cannot be read ({error.strerror}).") from error


def _parse(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise _damaged("a part of it is not JSON") from error


def _damaged(what: str) -> CannotStart:
    return CannotStart(f"The archive is damaged ({what}): nothing in it was used. Copy it again, or make a new one.")
