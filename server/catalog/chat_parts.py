"""The parts of a message: text, images, recordings, files."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    StringConstraints,
    TypeAdapter,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from server.catalog.fields import AudioData, FileData, Word, check_file, check_image, is_web_address
from server.schemas import Body


def _image_address(value: str) -> str:
    if is_web_address(value.strip()):
        return value.strip()
    try:
        return check_image(value)
    except ValueError as error:
        raise ValueError(f"{error}, or an address (https://…)") from None


def _media_address(value: str) -> str:
    return value.strip() if is_web_address(value.strip()) else check_file(value)


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
    """A document: its data as `data:…;base64,…` or base64 alone, its address, or the provider's id of it."""

    file_data: FileData | None = None
    file_url: Annotated[str, StringConstraints(min_length=1, max_length=10_000)] | None = None
    file_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    filename: Annotated[str, StringConstraints(max_length=500)] | None = None

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if (self.file_data, self.file_url, self.file_id) == (None, None, None):
            raise ValueError("must have file_data, file_url or file_id")
        return self


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


class ProviderPart(Body):
    """A part of a kind that only some providers know, passed on unchanged."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]


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
"""The last two are vLLM's. Parts of another type are the provider's (`thinking`, …)."""
_ADAPTERS: dict[Any, TypeAdapter[Any]] = {name: TypeAdapter(part) for name, part in PARTS.items()}

_OTHER: TypeAdapter[Any] = TypeAdapter(ProviderPart)


def _part(value: Any, _handler: ValidatorFunctionWrapHandler) -> Any:
    """Validate by the `type` field, so that one fault gives one error."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004 - pydantic reports only ValueError
    kind = value.get("type")
    if not isinstance(kind, str):
        *others, last = (f"'{name}'" for name in PARTS)
        raise ValueError(f"must have the type {', '.join(others)} or {last}")  # noqa: TRY004
    return _ADAPTERS.get(kind, _OTHER).validate_python(value)


Part = Annotated[
    TextPart | ImagePart | AudioPart | FilePart | RefusalPart | AudioUrlPart | VideoUrlPart | ProviderPart,
    WrapValidator(_part),
]
