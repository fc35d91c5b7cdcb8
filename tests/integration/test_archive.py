"""Archives: whole or not there, and nothing of a damaged one is used."""

import gzip
import io
import json
import random
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.commands.moving.archive import MAX_PAGE_BYTES, VERSION, ArchiveReader, ArchiveWriter
from server.errors import CannotStart

MANIFEST = {
    "format": "ai-sdk-server",
    "version": VERSION,
    "kind": "export",
    "created_at": "2026-11-24T12:00:00+00:00",
    "about": {},
}

LARGE = random.Random(0).randbytes(3_000_000)  # noqa: S311 - filler
"""Nothing repeats: of compressed repetitions some bits can change and mean the same."""


async def _chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _write(path: Path) -> Path:
    async with ArchiveWriter(path, "export", {"accounts": "embedded"}) as archive:
        await archive.add("users/000001.json", b"[]")
        await archive.add_stream("files/large", 3_000_000, _chunks(LARGE[:1_000_000], LARGE[1_000_000:]))
        await archive.add("files/empty", b"")
    return path


def _make(path: Path, *members: tuple[str, Any]) -> Path:
    """An archive by the standard library alone."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            header = tarfile.TarInfo(name)
            header.size = len(body)
            tar.addfile(header, io.BytesIO(body))
    return path


async def _refusal(path: Path, kind: Any = "export") -> str:
    with pytest.raises(CannotStart) as refusal:
        await ArchiveReader(path, kind).check()
    [line] = refusal.value.faults
    assert "\n" not in line
    return line


async def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = await _write(tmp_path / "a.tar.gz")
    manifest = await ArchiveReader(path, "export").check()
    assert (manifest.kind, manifest.about) == ("export", {"accounts": "embedded"})
    found = {member.name: await member.read() async for member in ArchiveReader(path, "export").members()}
    assert found == {
        "users/000001.json": b"[]",
        "files/large": LARGE,
        "files/empty": b"",
    }


async def test_members_that_nobody_reads_are_passed_over(tmp_path: Path) -> None:
    path = await _write(tmp_path / "a.tar.gz")
    names = [member.name async for member in ArchiveReader(path, "export").members()]
    assert names == ["users/000001.json", "files/large", "files/empty"]


async def test_other_programs_can_read_it(tmp_path: Path) -> None:
    path = await _write(tmp_path / "a.tar.gz")
    with tarfile.open(path) as tar:
        assert tar.getnames()[0] == "manifest.json"
        assert tar.getmember("files/large").size == 3_000_000


async def test_a_file_that_changes_its_size_ends_the_writing(tmp_path: Path) -> None:
    for pieces in ((b"xx",), (b"xx", b"xx")):
        path = tmp_path / "a.tar.gz"
        with pytest.raises(ValueError, match="changed while it was read"):
            async with ArchiveWriter(path, "export", {}) as archive:
                await archive.add_stream("files/a", 3, _chunks(*pieces))
        assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - a test


async def test_whatever_is_cut_off_is_missed(tmp_path: Path) -> None:
    whole = (await _write(tmp_path / "a.tar.gz")).read_bytes()
    cut = tmp_path / "cut.tar.gz"
    for length in [*range(0, len(whole), len(whole) // 60), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        assert await _refusal(cut)


async def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    whole = bytearray((await _write(tmp_path / "a.tar.gz")).read_bytes())
    changed = tmp_path / "changed.tar.gz"
    for place in range(20, len(whole), len(whole) // 60):
        copy = bytearray(whole)
        copy[place] ^= 0xFF
        changed.write_bytes(copy)
        assert await _refusal(changed)


async def test_a_cut_between_two_members_is_found_as_well(tmp_path: Path) -> None:
    """Compressed anew, so that no checksum helps."""
    tar = gzip.decompress((await _write(tmp_path / "a.tar.gz")).read_bytes())
    end = tar.index(b"end.json")
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(gzip.compress(tar[:end] + bytes(1024)))
    assert "end is missing" in await _refusal(path)
    empty = tar.index(b"files/empty")
    path.write_bytes(gzip.compress(tar[:empty] + tar[end:]))
    assert "members are missing" in await _refusal(path)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([], "its end is missing"),
        ([("users/000001.json", [])], "was not made by"),
        ([("manifest.json", b"{")], "damaged"),
        ([("manifest.json", MANIFEST | {"format": "another"})], "was not made by"),
        ([("manifest.json", MANIFEST | {"version": VERSION + 1})], "newer server"),
        ([("manifest.json", MANIFEST | {"kind": "backup"}), ("end.json", {"members": 1})], "use `restore`"),
        ([("manifest.json", MANIFEST), ("end.json", {"members": 1}), ("users/1", [])], "something follows"),
        ([("manifest.json", MANIFEST), ("end.json", {"members": 7})], "members are missing"),
    ],
)
async def test_what_is_no_archive_of_ours_is_one_line(
    tmp_path: Path, members: list[tuple[str, Any]], said: str
) -> None:
    assert said in await _refusal(_make(tmp_path / "a.tar.gz", *members))


async def test_links_and_folders_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        with tarfile.open(path, "w:gz") as tar:
            header = tarfile.TarInfo("manifest.json")
            header.type, header.linkname = kind, "/etc/passwd"
            tar.addfile(header)
        assert "is not a file" in await _refusal(path)


async def test_a_page_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as file:
        header = tarfile.TarInfo("manifest.json")
        header.size = MAX_PAGE_BYTES + 1
        file.write(header.tobuf())
    assert "claims" in await _refusal(path)


async def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert "There is no file" in await _refusal(path)
    assert "cannot be read" in await _refusal(tmp_path)
    for content in (b"", b"hello", gzip.compress(b"hello"), gzip.compress(b"hello" * 1000), b"\x1f\x8b"):
        path.write_bytes(content)
        assert "damaged" in await _refusal(path)
