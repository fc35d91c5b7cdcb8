"""File fields: `data:` URLs of every form and kind, by the same rule as uploads."""

import base64
from urllib.parse import quote

import pytest

from server.files.sniffing import judge
from server.inference.protocol.file_types import why_refused
from tests.fakes.media import OTHERS, PNG, SAMPLES
from tests.fixtures.catalogs import faults, kept


@pytest.mark.parametrize("options", [";codecs=opus", ";codecs=opus;rate=48000", ";charset="])
def test_the_options_of_a_recording_are_left_out(options: str) -> None:
    """As the recorders of browsers make them."""
    recording = base64.b64encode(SAMPLES["webm"].data).decode()
    input_data, _ = kept("speech-to-text", {"audio": f"data:audio/webm{options};base64,{recording}"})
    assert input_data == {"audio": f"data:audio/webm;base64,{recording}"}


def _url(data: bytes, head: str = "data:;base64,") -> str:
    return head + base64.b64encode(data).decode()


PNG_URL = _url(PNG, "data:image/png;base64,")
_BARE = PNG_URL.partition(",")[2]


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64," + "\r\n".join(_BARE[start : start + 76] for start in range(0, len(_BARE), 76)),
        "data:image/png;base64,\n" + "\n".join(_BARE) + "\n",
        " " + PNG_URL + "\n",
        _url(PNG, "data:image/PNG;base64,"),
        _url(PNG, "DATA:Image/png;BASE64,"),
        _url(PNG, "data:image/png;name=a.png;charset=utf-8;base64,"),
        _url(PNG, "data:image/png; base64, "),
        _url(PNG, "data:base64,"),
        "data:image/png," + quote(PNG),
        PNG_URL.rstrip("="),
        "data:image/png;base64," + base64.urlsafe_b64encode(PNG).decode(),
        "data:image/png;base64," + quote(_BARE, safe=""),
    ],
    ids=[
        *("lines", "a character a line", "blanks", "type", "scheme", "options", "blanks inside", "no type"),
        *("no base64", "no padding", "URL-safe", "per cent"),
    ],
)
def test_f5_base64_of_any_form_is_kept_in_one(url: str) -> None:
    assert kept("image-classification", {"image": url})[0] == {"image": PNG_URL}
    part = {"type": "image_url", "image_url": {"url": url}}
    kept_message = kept("chat", {"messages": [{"role": "user", "content": [part]}]})[0]["messages"][0]
    assert kept_message["content"] == [{"type": "image_url", "image_url": {"url": PNG_URL}}]


@pytest.mark.parametrize(
    "declared", ["", "image/*", "*/*", "image/jpeg", "audio/wav", "application/octet-stream", "text/html"]
)
def test_f1_the_bytes_of_a_data_url_decide(declared: str) -> None:
    url = _url(PNG, f"data:{declared};base64,")
    assert kept("image-classification", {"image": url})[0] == {"image": PNG_URL}


@pytest.mark.parametrize("name", SAMPLES)
def test_f7_a_data_url_is_taken_as_an_upload_is(name: str) -> None:
    sample = SAMPLES[name]
    kind, field = ("image-classification", "image") if sample.content_type[0] == "i" else ("speech-to-text", "audio")
    reason = why_refused(judge("", sample.data), field)
    if reason is None:
        stored = _url(sample.data, f"data:{sample.content_type};base64,")
        assert kept(kind, {field: _url(sample.data)})[0] == {field: stored}
    else:
        assert faults(kind, {field: _url(sample.data)}) == {f"input_data.{field}": reason}


@pytest.mark.parametrize("name", OTHERS)
def test_f7_other_files_are_refused_as_data_url_too(name: str) -> None:
    for kind, field in (("image-classification", "image"), ("speech-to-text", "audio")):
        found = faults(kind, {field: _url(OTHERS[name], f"data:{field}/png;base64,")})
        assert found == {f"input_data.{field}": "is neither an image nor audio of a kind that is known here"}


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.startswith(("heic", "avif"))])
def test_f4_heic_and_avif_are_refused_with_the_types_that_models_take(name: str) -> None:
    sample = SAMPLES[name]
    said = "must be JPEG, PNG, WEBP, GIF, BMP or TIFF: models cannot read "
    assert faults("object-detection", {"image": _url(sample.data)}) == {
        "input_data.image": f"{said}{sample.content_type}, so convert it first"
    }
    part = {"type": "image_url", "image_url": {"url": _url(sample.data, "data:image/jpeg;base64,")}}
    [message] = faults("chat", {"messages": [{"role": "user", "content": [part]}]}).values()
    assert message.startswith(f"{said}{sample.content_type}")
