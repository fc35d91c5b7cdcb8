"""Field types that several model types share, with their bounds."""

import base64
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from urllib.parse import unquote, unquote_to_bytes

import orjson
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)

from server.encoding import decode_base64
from server.file_reference import SCHEME
from server.inference.protocol.file_types import HEAD_BYTES, type_of, why_refused
from server.schemas import Body

_BASE64 = "base64"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?P<more>(?:;[^;,]*)*),", re.IGNORECASE)
"""The beginning of a `data:` URL (RFC 2397). Browsers record audio/webm;codecs=opus; the bytes contain the codec."""


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
TopP = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)]
MaxTokens = Annotated[int, Field(ge=1, le=10_000_000)]
"""More than any model can generate. The model decides how much it takes."""
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,40}$")]
"""One of a few words. Models add new ones, so the provider decides."""
TopK = Annotated[int, Field(ge=1, le=1000)]

_STOP_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 1000}
StopText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Stop = Annotated[
    list[StopText],
    Field(min_length=1, max_length=64),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [_STOP_SCHEMA, {"type": "array", "items": _STOP_SCHEMA, "minItems": 1, "maxItems": 64}]}),
]
"""One text, or a list. One text is stored as a list. Some providers take four texts, others any number."""


def to_json_text(value: Any, _handler: ValidatorFunctionWrapHandler) -> str:
    """An object as JSON text. The database would reorder its keys, and some readers follow their order."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004 - pydantic reports only ValueError
    return orjson.dumps(value).decode()


_OWNED = frozenset({"model", "messages", "prompt", "input", "inputs", "stream", "stream_options", "n", "best_of"})
"""Fields of a call that the server sets itself."""
ORDERS_TO_PROXIES = ("api_base", "api_key", "base_url", "extra_headers", "fallbacks", "headers", "models")
"""Fields that choose the model, the address or the credentials of a call at some proxies (OpenRouter, LiteLLM). That is
the operator's choice."""


class ExtraParameters(Body):
    """Parameters of a task whose providers have many more of their own."""

    extra: (
        Annotated[
            str,
            WrapValidator(to_json_text),
            WithJsonSchema(
                {
                    "type": "object",
                    "description": "Fields that only some providers know (`min_p`, `chat_template_kwargs`, …). "
                    "They are added to the call unchanged.",
                }
            ),
        ]
        | None
    ) = None

    @field_validator("extra", mode="before")
    @classmethod
    def _has_no_field_of_the_call(cls, value: Any) -> Any:
        named = value.keys() if isinstance(value, dict) else frozenset[str]()
        if set_here := sorted(named & _OWNED.union(ORDERS_TO_PROXIES)):
            raise ValueError(f"must not have {set_here[0]}: the server sets it")
        if known := sorted(named & (cls.model_fields.keys() - {"extra"})):
            raise ValueError(f"must not have {known[0]}: it is a parameter of its own")
        return value


class _FileOf:
    """Validates a file field: the id of an upload, `file:<id>`, or a `data:` URL with its bytes.

    `kind` is the first half of its type; "" is any. A `data:` URL is stored in one form: lower case, the type of its
    bytes, and base64 without line breaks.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __call__(self, value: str) -> str:
        name = value.strip().lower()
        if _UUID.fullmatch(name.removeprefix(SCHEME)):
            return SCHEME + name.removeprefix(SCHEME)
        match = _DATA_URL.match(value.strip())
        if match is None:
            raise ValueError(f"must be the id of an uploaded file, or data:{self._kind or '…'}/…;base64,…")
        *types, coding = f"{match['type']}{match['more']}".lower().split(";")
        declared = next(iter(types), "" if coding.strip() == _BASE64 else coding).strip()
        data = _bytes_of(match.string[match.end() :], is_base64=coding.strip() == _BASE64)
        content_type = type_of(data[:HEAD_BYTES], declared)
        if not self._kind:
            content_type = content_type or declared or "application/octet-stream"
        elif content_type is None:
            raise ValueError("is neither an image nor audio of a kind that is known here")
        elif (reason := why_refused(content_type, self._kind)) is not None:
            raise ValueError(reason)
        return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def _bytes_of(text: str, *, is_base64: bool) -> bytes:
    if not is_base64:
        return unquote_to_bytes(text)
    try:
        return decode_base64(unquote(text))
    except ValueError:
        raise ValueError("must be whole base64 after the comma") from None


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
AudioFile = Annotated[str, AfterValidator(_FileOf("audio")), _file_schema("audio")]
check_file = _FileOf("")


_WEB = re.compile(r"https?://[^/]", re.IGNORECASE)


def is_web_address(address: str) -> bool:
    return _WEB.match(address) is not None


def _base64_of(value: str) -> str:
    """Base64 alone, or a file with its type, as for any file field."""
    if value.startswith(SCHEME) or value[:5].lower() == "data:":
        return check_file(value)
    return check_file(f"data:;base64,{value}").rpartition(",")[2]


def _audio_data(value: str) -> str:
    """Base64 alone, as in OpenAI's clients, also of a `data:` URL."""
    return _base64_of(value).rpartition(",")[2]


def _file_data(value: str) -> str:
    """As for any file field, base64 alone, or an address, which the provider reads."""
    return value.strip() if is_web_address(value.strip()) else _base64_of(value)


AudioData = Annotated[str, AfterValidator(_audio_data)]
FileData = Annotated[str, AfterValidator(_file_data)]


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
