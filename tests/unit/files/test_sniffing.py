"""What a file is: told by its first bytes, whatever was declared; and what contradicts them is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import UnsupportedMedia
from server.files.sniffing import correct, judge
from server.inference.protocol.file_types import HEAD_BYTES, sniff
from tests.fakes.media import OTHERS, PNG, SAMPLES


@pytest.mark.parametrize("name", SAMPLES)
def test_a_kind_that_is_taken_is_known(name: str) -> None:
    assert judge("", SAMPLES[name].data[:HEAD_BYTES]) == SAMPLES[name].content_type


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_none_of_them_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedMedia, match="neither an image nor audio"):
        judge("image/png", OTHERS[name])


@pytest.mark.parametrize(
    ("name", "declared", "kept"),
    [
        ("png", "IMAGE/PNG; charset=binary", "image/png"),
        ("jpeg (Exif)", "image/jpg", "image/jpeg"),
        ("wav", "audio/x-wav", "audio/wav"),
        ("mp3 (ID3)", "audio/mp3", "audio/mpeg"),
        ("ogg (Opus)", "audio/opus", "audio/ogg"),
        ("m4a", "audio/x-m4a", "audio/mp4"),
        ("m4a", "video/mp4", "audio/mp4"),
        ("mp4", "audio/mp4", "audio/mp4"),
        ("mp4", "video/mp4", "video/mp4"),
        ("webm", "audio/webm;codecs=opus", "audio/webm"),
        ("webm", "video/webm", "video/webm"),
    ],
)
def test_another_name_of_the_same_is_no_contradiction(name: str, declared: str, kept: str) -> None:
    assert judge(declared, SAMPLES[name].data) == kept


@pytest.mark.parametrize("declared", ["image/jpeg", "audio/png", "text/plain", "application/json", "nonsense"])
def test_a_contradiction_is_refused_with_the_type_that_it_is(declared: str) -> None:
    with pytest.raises(UnsupportedMedia, match="The file is image/png"):
        judge(declared, PNG)


def test_what_a_model_makes_is_taken_in_any_case() -> None:
    assert correct("image/jpeg", PNG) == "image/png"
    assert correct("audio/webm", SAMPLES["webm"].data) == "audio/webm"
    assert correct("application/json", b"{}") == "application/json"


@given(st.binary(max_size=HEAD_BYTES))
def test_no_bytes_are_too_odd(head: bytes) -> None:
    found = sniff(head)
    assert found is None or "/" in found
