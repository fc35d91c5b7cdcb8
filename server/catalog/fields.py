"""Field types that several model types share, with their bounds."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema, model_validator

from server.file_reference import SCHEME
from server.schemas import Body

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_DATA_URL = re.compile(
    r"data:(?P<type>[a-z0-9.+-]+/[a-z0-9.+-]+)(?P<options>(?:;[a-z0-9-]+=[^;,]*)*);base64,(?P<data>[A-Za-z0-9+/]+={0,2})",
    re.ASCII,
)


def not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Prompt = Annotated[str, StringConstraints(min_length=1), AfterValidator(not_blank)]
Text = Prompt
"""Text input of a task. Models may truncate it to some hundred words."""
Label = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(not_blank)]
Language = Annotated[str, StringConstraints(min_length=1, max_length=40)]

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
MaxTokens = Annotated[int, Field(ge=1, le=32_768)]
TopK = Annotated[int, Field(ge=1, le=1000)]

_STOP_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 200}
StopText = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Stop = Annotated[
    list[StopText],
    Field(min_length=1, max_length=4),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [_STOP_SCHEMA, {"type": "array", "items": _STOP_SCHEMA, "minItems": 1, "maxItems": 4}]}),
]
"""One text, or a list of up to four. One text is stored as a list."""


class _FileOf:
    """Validates a file field: the id of an upload, `file:<id>`, or a `data:` URL with its bytes.

    `kind` is the first half of its type; "" is any.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __call__(self, value: str) -> str:
        name = value.strip().lower()
        if _UUID.fullmatch(name.removeprefix(SCHEME)):
            return SCHEME + name.removeprefix(SCHEME)
        match = _DATA_URL.fullmatch(value)
        if match is None:
            raise ValueError(f"must be the id of an uploaded file, or data:{self._kind or '…'}/…;base64,…")
        if self._kind and not match["type"].startswith(f"{self._kind}/"):
            raise ValueError(f"must hold {self._kind}/…, not another type")
        try:
            base64.b64decode(match["data"], validate=True)
        except binascii.Error:
            raise ValueError("must be whole base64 after the comma") from None
        # Browsers record audio/webm;codecs=opus; the parameter is dropped, because the bytes contain the codec.
        return f"data:{match['type']};base64,{match['data']}" if match["options"] else value


def _file_schema(kind: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "type": "string",
            "description": f"The id of an uploaded file (POST /api/files), with or without the prefix 'file:', "
            f"or the file as data:{kind}/…;base64,….",
            "examples": ["file:019ab0c4-5d1e-7c3a-9f20-3b1d2c4e5f60"],
        }
    )


check_image = _FileOf("image")
ImageFile = Annotated[str, AfterValidator(check_image), _file_schema("image")]
_check_audio = _FileOf("audio")
AudioFile = Annotated[str, AfterValidator(_check_audio), _file_schema("audio")]


def _audio_data(value: str) -> str:
    """Base64 alone, as in OpenAI's clients, also of a `data:` URL."""
    is_named = value.startswith(("data:", SCHEME))
    checked = _check_audio(value if is_named else f"data:audio/unknown;base64,{value}")
    return checked if checked.startswith(SCHEME) else checked.rpartition(",")[2]


AudioData = Annotated[str, AfterValidator(_audio_data)]
FileData = Annotated[str, AfterValidator(_FileOf(""))]


class HubInput(Body):
    """Input of a task whose main field may also be named `inputs`, as in Hugging Face's own clients.

    As in those clients, `inputs` may also be an object with several fields.
    """

    main: ClassVar[str] = "text"
    renamed: ClassVar[Mapping[str, str]] = {}
    """Field names of Hugging Face's clients, and ours for each."""

    @model_validator(mode="before")
    @classmethod
    def _rename_fields(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if "inputs" in data and cls.main not in data:
            inputs = data["inputs"]
            rest = {name: value for name, value in data.items() if name != "inputs"}
            data = rest | (inputs if isinstance(inputs, dict) else {cls.main: inputs})
        for other, name in cls.renamed.items():
            if other in data and name not in data:
                data = {name if key == other else key: value for key, value in data.items()}
        return data
