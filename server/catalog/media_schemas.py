"""Input and parameters of the tasks that read or generate images and audio."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidatorFunctionWrapHandler, WrapValidator

from server.catalog.fields import AudioFile, HubInput, ImageFile, Prompt, Seed, Temperature, Text, Threshold, TopK, TopP
from server.catalog.text_schemas import Tokens
from server.schemas import Body

Side = Annotated[int, Field(ge=64, le=2048)]
"""Pixels."""
Steps = Annotated[int, Field(ge=1, le=150)]
Guidance = Annotated[float, Field(ge=0, le=50, allow_inf_nan=False)]


class ImageInput(HubInput):
    """An image."""

    main = "image"

    image: ImageFile


class AudioInput(HubInput):
    """A recording."""

    main = "audio"

    audio: AudioFile


class ImagePromptInput(HubInput):
    """A description of the image."""

    main = "prompt"

    prompt: Prompt


class ImageToImageInput(HubInput):
    """An image, and a description of the change."""

    main = "image"

    image: ImageFile
    prompt: Prompt | None = None


class SpeechInput(HubInput):
    """The text to speak."""

    text: Text


class TextToImageParameters(Body):
    width: Side | None = None
    height: Side | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    negative_prompt: Prompt | None = None
    seed: Seed | None = None
    scheduler: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None


class Size(Body):
    width: Side
    height: Side


class ImageToImageParameters(Body):
    prompt: Prompt | None = None
    negative_prompt: Prompt | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    target_size: Size | None = None
    seed: Seed | None = None


class DetectionParameters(Body):
    threshold: Threshold | None = None


class SegmentationParameters(Body):
    threshold: Threshold | None = None
    mask_threshold: Threshold | None = None
    overlap_mask_area_threshold: Threshold | None = None
    subtask: Literal["instance", "panoptic", "semantic"] | None = None


class CaptionParameters(Body):
    max_new_tokens: Tokens | None = None


class SpeechGenerationParameters(Body):
    """Sampling parameters of the model."""

    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    do_sample: bool | None = None
    num_beams: Annotated[int, Field(ge=1, le=16)] | None = None
    max_new_tokens: Tokens | None = None


def _timestamps(value: Any, _handler: ValidatorFunctionWrapHandler) -> Any:
    """Gives one error. Pydantic's union would give one for each type."""
    if not isinstance(value, bool) and value not in ("word", "char"):
        raise ValueError("must be true, false, 'word' or 'char'")
    return value


class TranscriptionParameters(Body):
    return_timestamps: Annotated[bool | Literal["word", "char"], WrapValidator(_timestamps)] | None = None
    generation_parameters: SpeechGenerationParameters | None = None


class TextToSpeechParameters(Body):
    """`voice` is a name that the model knows. Models of providers ignore `generation_parameters`."""

    voice: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    generation_parameters: SpeechGenerationParameters | None = None
