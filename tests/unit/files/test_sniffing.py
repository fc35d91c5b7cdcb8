"""The type of a file: its first bytes decide, whatever type was declared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import UnsupportedMedia
from server.files.sniffing import correct, judge
from server.inference.protocol.file_types import HEAD_BYTES, sniff
from server.storage.objects import kept_type
from tests.fakes.media import ADTS, OTHERS, PNG, SAMPLES, box, id3


@pytest.mark.parametrize("name", SAMPLES)
def test_f2_each_kind_of_file_is_known_by_its_bytes(name: str) -> None:
    found = judge("", SAMPLES[name].data[:HEAD_BYTES])
    assert found == SAMPLES[name].content_type
    assert kept_type(found) == found, "the store keeps the type"


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedMedia, match="neither an image nor audio"):
        judge("image/png", OTHERS[name])


DECLARED = (
    "", "image/*", "*/*", "multipart/form-data", "application/x-www-form-urlencoded", "application/octet-stream",
    "image/jpeg", "IMAGE/PNG; charset=binary", "text/plain", "nonsense", ";", "audio/mp4", "audio/wav", "video/mp4",
)  # fmt: skip


@pytest.mark.parametrize("declared", DECLARED)
def test_f1_the_bytes_decide_whatever_is_declared(declared: str) -> None:
    assert judge(declared, PNG) == "image/png"
    assert judge(declared, ADTS) == "audio/aac"


@pytest.mark.parametrize(
    ("name", "declared", "kept"),
    [
        ("m4a", "audio/aac", "audio/mp4"),
        ("m4a", "video/mp4", "audio/mp4"),
        ("mp4", "audio/x-m4a", "audio/mp4"),
        ("mp4", "audio/aac", "audio/mp4"),
        ("mp4", "video/mp4", "video/mp4"),
        ("mp4", "image/png", "video/mp4"),
        ("3gp", "audio/3gpp", "audio/3gpp"),
        ("3gp", "audio/amr", "audio/3gpp"),
        ("3gp", "video/3gpp", "video/3gpp"),
        ("mov", "audio/mp4", "video/quicktime"),
        ("webm", "AUDIO/webm;codecs=opus", "audio/webm"),
        ("webm", "video/webm", "video/webm"),
        ("webm (VP8 and Opus)", "audio/webm", "audio/webm"),
        ("ogg (Opus)", "audio/opus", "audio/ogg"),
        ("mp3 (ID3 with a cover)", "audio/mp3", "audio/mpeg"),
    ],
)
def test_f2_the_declared_type_says_only_whether_a_container_is_sound(name: str, declared: str, kept: str) -> None:
    assert judge(declared, SAMPLES[name].data[:HEAD_BYTES]) == kept


@pytest.mark.parametrize(
    ("declared", "kept"),
    [("audio/flac", "audio/flac"), ("audio/x-flac", "audio/flac"), ("audio/aacp", "audio/aac"), ("", "audio/mpeg")],
)
def test_f2_behind_a_tag_that_is_longer_than_the_head_the_declared_type_counts(declared: str, kept: str) -> None:
    assert judge(declared, id3(2 * HEAD_BYTES)[:HEAD_BYTES]) == kept
    assert judge(declared, id3(10) + ADTS) == "audio/aac", "here the bytes are seen"


@pytest.mark.parametrize(
    "index",
    [
        box(b"moov", b"\0\0\0\1trak" + bytes(7)),
        box(b"moov", b"\0\0\0\0trak"),
        box(b"moov", box(b"trak", box(b"mdia", box(b"hdlr")))),
        b"\xff\xff\xff\xffmoov" + bytes(64),
        b"\0\0\0\1moov\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\x07moov",
    ],
)
def test_a_damaged_index_leaves_the_brand_to_decide(index: bytes) -> None:
    assert sniff(box(b"ftyp", b"isom", bytes(4)) + index) == "video/mp4"


def test_the_type_of_a_file_that_a_model_makes_is_corrected() -> None:
    assert correct("image/jpeg", PNG) == "image/png"
    assert correct("audio/webm", SAMPLES["webm"].data) == "audio/webm"
    assert correct("application/json", b"{}") == "application/json"


@given(st.sampled_from([b"", *(sample.data[:24] for sample in SAMPLES.values())]), st.binary(max_size=600))
def test_no_bytes_make_it_fail(prefix: bytes, rest: bytes) -> None:
    found = sniff(prefix + rest)
    assert found is None or "/" in found
