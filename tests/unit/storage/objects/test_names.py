"""Names of objects: made of what a row holds, always the same, and never of what a user wrote."""

from uuid import UUID

import pytest

from server.storage.objects import content_type_of, file_id_of, kept_type, key_of, parse_key
from server.storage.objects.names import OTHER

USER, FILE = UUID(int=1), UUID(int=2)
# Rows in databases name their objects by these: a line that changes loses files.
EXTENSIONS = {
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
    "audio/webm": "weba",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/tiff": "tiff",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "video/webm": "webm",
    OTHER: "bin",
}


@pytest.mark.parametrize(("content_type", "extension"), EXTENSIONS.items())
def test_a_row_and_its_object_find_each_other(content_type: str, extension: str) -> None:
    key = key_of(USER, FILE, content_type)
    assert key == f"{USER}/{FILE}.{extension}"
    assert (parse_key(key), file_id_of(key), content_type_of(key)) == (key, FILE, content_type)
    assert kept_type(content_type) == content_type


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "", "../../x", "application/javascript"])
def test_what_a_browser_would_run_is_kept_as_bytes(content_type: str) -> None:
    assert (key_of(USER, FILE, content_type).rpartition(".")[2], kept_type(content_type)) == ("bin", OTHER)
