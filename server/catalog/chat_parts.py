"""The parts of a message: text, images, recordings, files."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, StringConstraints, TypeAdapter, ValidatorFunctionWrapHandler, WrapValidator

from server.catalog.fields import AudioData, FileData, Word, check_file, check_image
from server.schemas import Body

_WEB = re.compile(r"https?://[^/]", re.IGNORECASE)


def is_web_address(address: str) -> bool:
    return _WEB.match(address) is not None


def _image_address(value: str) -> str:
    if is_web_address(value):
        return value
    try:
        return check_image(value)
    except ValueError as error:
        raise ValueError(f"{error}, or an address (https://…)") from None


def _media_address(value: str) -> str:
    return value if is_web_address(value) else check_file(value)


ImageAddress = Annotated[str, StringConstraints(min_length=1), AfterValidator(_image_address)]
"""The address of a web page is passed to the provider unchanged. The bytes of a file are sent."""
MediaAddress = Annotated[str, StringConstraints(min_length=1), AfterValidator(_media_address)]


class ProviderFields(Body):
    """Fields of some providers, passed on unchanged: the mark of a prompt's cache, and what Gemini wants back."""

    cache_control: dict[str, Any] | None = None
    extra_content: dict[str, Any] | None = None


class ImageUrl(Body):
    url: ImageAddress
    detail: Word | None = None


class MediaUrl(Body):
    url: MediaAddress


class InputAudio(Body):
    """A recording in base64, and its format (`wav`, `mp3`, …)."""

    data: AudioData
    format: Annotated[str, StringConstraints(max_length=40)] | None = None


class FileContent(Body):
    """A document: its data as `data:…;base64,…` or base64 alone, or the id that the provider knows it by."""

    file_data: FileData | None = None
    file_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    filename: Annotated[str, StringConstraints(max_length=500)] | None = None


class TextPart(ProviderFields):
    type: Literal["text"]
    text: str


class ImagePart(ProviderFields):
    type: Literal["image_url"]
    image_url: ImageUrl


class AudioPart(ProviderFields):
    type: Literal["input_audio"]
    input_audio: InputAudio


class FilePart(ProviderFields):
    type: Literal["file"]
    file: FileContent


class RefusalPart(ProviderFields):
    type: Literal["refusal"]
    refusal: str


class AudioUrlPart(ProviderFields):
    type: Literal["audio_url"]
    audio_url: MediaUrl


class VideoUrlPart(ProviderFields):
    type: Literal["video_url"]
    video_url: MediaUrl


PARTS: dict[str, type[ProviderFields]] = {
    "text": TextPart,
    "image_url": ImagePart,
    "input_audio": AudioPart,
    "file": FilePart,
    "refusal": RefusalPart,
    "audio_url": AudioUrlPart,
    "video_url": VideoUrlPart,
}
"""The last two are vLLM's."""
_ADAPTERS: dict[Any, TypeAdapter[Any]] = {name: TypeAdapter(part) for name, part in PARTS.items()}


def _part(value: Any, _handler: ValidatorFunctionWrapHandler) -> Any:
    """Validate by the `type` field, so that one fault gives one error."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004 - pydantic reports only ValueError
    adapter = _ADAPTERS.get(value.get("type") if isinstance(value.get("type"), str) else None)
    if adapter is None:
        *others, last = (f"'{name}'" for name in PARTS)
        raise ValueError(f"must have the type {', '.join(others)} or {last}")
    return adapter.validate_python(value)


Part = Annotated[
    TextPart | ImagePart | AudioPart | FilePart | RefusalPart | AudioUrlPart | VideoUrlPart, WrapValidator(_part)
]
