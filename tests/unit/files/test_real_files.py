"""Files as phones and browsers make them, by the programs that make them."""

import subprocess
from pathlib import Path

import pytest

from server.files.sniffing import judge
from server.inference.protocol.file_types import HEAD_BYTES
from server.inference.protocol.movie_index import move_in_memory
from tests.fixtures.real_files import FILES, RealFile, make, markdown
from tests.tools import FFMPEG

_DOCUMENT = Path(__file__).parents[3] / "docs/files.md"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.about)
def test_f2_a_real_file_is_kept_as_the_table_says(file: RealFile, tmp_path: Path) -> None:
    head = make(file, tmp_path)[:HEAD_BYTES]
    assert judge("", head) == judge("application/x-www-form-urlencoded", head) == file.kept


def test_the_table_of_the_documentation_is_true() -> None:
    assert markdown() in _DOCUMENT.read_text()


@pytest.mark.parametrize("name", ["end.m4a", "film.mp4", "film.mov", "film.3gp"])
def test_a_recording_with_its_index_at_the_end_is_moved_so_that_a_pipe_can_read_it(name: str, tmp_path: Path) -> None:
    file = next(file for file in FILES if file.name == name)
    made = make(file, tmp_path)
    whole = _decoded(tmp_path / name)
    assert len(whole) == pytest.approx(10 * 16_000 * 2, rel=0.05), "ten seconds of 16 bit"
    moved = move_in_memory(made)
    assert len(moved) == len(made)
    assert _decoded("pipe:0", made) != whole, "what models do with the file as it was sent"
    assert _decoded("pipe:0", moved) == whole
    (tmp_path / "moved").write_bytes(moved)
    assert _decoded(tmp_path / "moved") == whole


@pytest.mark.parametrize("name", ["front.m4a", "safari.mp4", "sound.3gp"])
def test_a_recording_with_its_index_in_front_stays_as_it_is(name: str, tmp_path: Path) -> None:
    made = make(next(file for file in FILES if file.name == name), tmp_path)
    assert move_in_memory(made) == made
    assert len(_decoded("pipe:0", made)) == pytest.approx(10 * 16_000 * 2, rel=0.05)


def _decoded(source: Path | str, sent: bytes = b"") -> bytes:
    """The sound as models decode it (transformers, `ffmpeg_read`)."""
    command = [
        str(FFMPEG.require()),
        "-v",
        "quiet",
        "-i",
        str(source),
        "-ac",
        "1",
        "-ar",
        "16000",
        "-f",
        "s16le",
        "pipe:1",
    ]
    return subprocess.run(command, input=sent, capture_output=True, check=False, timeout=60).stdout
