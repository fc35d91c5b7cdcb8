"""Input and parameters of chat completion and text generation."""

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)

from server.catalog.fields import (
    AudioData,
    FileData,
    HubInput,
    MaxTokens,
    Penalty,
    Prompt,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    check_image,
    not_blank,
)
from server.schemas import Body

MAX_PARTS = 100
MAX_TOOLS = 128

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def _image_address(value: str) -> str:
    if value.startswith("https://"):
        return value
    try:
        return check_image(value)
    except ValueError as error:
        raise ValueError(f"{error}, or an https:// address") from None


ImageAddress = Annotated[str, StringConstraints(min_length=1), AfterValidator(_image_address)]
"""An https URL is passed to the provider unchanged. The bytes of a file are sent."""


def _to_json_text(value: Any, _handler: ValidatorFunctionWrapHandler) -> str:
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004 - pydantic reports only ValueError
    return orjson.dumps(value).decode()


JsonSchemaText = Annotated[
    str,
    WrapValidator(_to_json_text),
    WithJsonSchema({"type": "object", "description": "A JSON schema; the order of its keys is kept."}),
]
"""An object that is stored as JSON text. The database would reorder its keys, and models answer in their order."""


class ImageUrl(Body):
    url: ImageAddress
    detail: Literal["auto", "low", "high"] | None = None


class InputAudio(Body):
    data: AudioData
    format: Annotated[str, StringConstraints(min_length=1, max_length=20)]


class AudioPart(Body):
    type: Literal["input_audio"]
    input_audio: InputAudio


class FileContent(Body):
    """A document as `data:` URL. A provider may want its name."""

    file_data: FileData
    filename: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None


class FilePart(Body):
    type: Literal["file"]
    file: FileContent


class TextPart(Body):
    type: Literal["text"]
    text: Prompt


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl


_PARTS: dict[Any, TypeAdapter[Any]] = {
    "text": TypeAdapter(TextPart),
    "image_url": TypeAdapter(ImagePart),
    "input_audio": TypeAdapter(AudioPart),
    "file": TypeAdapter(FilePart),
}


def _part(value: Any, _handler: ValidatorFunctionWrapHandler) -> Any:
    """Validate by the `type` field, so that one fault gives one error."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004 - pydantic reports only ValueError
    adapter = _PARTS.get(value.get("type") if isinstance(value.get("type"), str) else None)
    if adapter is None:
        raise ValueError("must have the type 'text', 'image_url', 'input_audio' or 'file'")
    return adapter.validate_python(value)


Part = Annotated[TextPart | ImagePart | AudioPart | FilePart, WrapValidator(_part)]
_TEXT: TypeAdapter[str] = TypeAdapter(str)
_LIST: TypeAdapter[list[Any]] = TypeAdapter(Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)])


def _content(value: Any, _handler: ValidatorFunctionWrapHandler) -> Any:
    if value is None or isinstance(value, str):
        return None if value is None else _TEXT.validate_python(value)
    if not isinstance(value, list):
        raise ValueError("must be a string or an array of parts")  # noqa: TRY004
    return _LIST.validate_python(value)


Content = Annotated[str | list[Part] | None, WrapValidator(_content)]


class CalledFunction(Body):
    name: FunctionName
    arguments: str


class ToolCall(Body):
    """A tool call of the model, as part of the conversation."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    type: Literal["function"] = "function"
    function: CalledFunction
    extra_content: dict[str, Any] | None = None
    """Fields that the model's provider added to the call, unchanged: Gemini wants its signature back."""


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = Field(None, validate_default=True)
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_call_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None

    @field_validator("content")
    @classmethod
    def _has_content(cls, content: Any, info: ValidationInfo) -> Any:
        """Only `assistant` and `tool` may be blank. `assistant` may have no content, but tool calls."""
        role = info.data.get("role")
        if content is None and role != "assistant":
            raise ValueError("is required")
        if isinstance(content, str) and role not in {"assistant", "tool"}:
            not_blank(content)
        return content

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("must have the role 'assistant' to hold tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("must have a tool_call_id if its role is 'tool', and only then")
        if self.content is None and self.tool_calls is None:
            raise ValueError("must have content or tool_calls")
        return self


class TextInput(HubInput):
    """A prompt, or a conversation to continue."""

    main = "prompt"

    prompt: Prompt | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _has_one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("must have either prompt or messages")
        return self


class PromptInput(HubInput):
    """Text to be continued."""

    main = "prompt"

    prompt: Prompt


class Function(Body):
    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=10_000)] | None = None
    parameters: JsonSchemaText | None = None
    strict: bool | None = None


class Tool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: FunctionName


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


_NAMED_TOOL: TypeAdapter[NamedTool] = TypeAdapter(NamedTool)
_TOOL_CHOICES = ("none", "auto", "required")


def _tool_choice(value: Any, _handler: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, dict):
        return _NAMED_TOOL.validate_python(value)
    if value not in _TOOL_CHOICES:
        raise ValueError("must be 'none', 'auto', 'required' or one of the tools")
    return value


ToolChoice = Annotated[Literal["none", "auto", "required"] | NamedTool, WrapValidator(_tool_choice)]


class NamedSchema(Body):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Annotated[str, StringConstraints(max_length=10_000)] | None = None
    schema_: Annotated[JsonSchemaText, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Body):
    """The format of the answer. Not every provider obeys it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("must have a json_schema if its type is 'json_schema', and only then")
        return self


class ChatParameters(Body):
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None

    @model_validator(mode="after")
    def _chooses_among_tools(self) -> Self:
        names = {tool.function.name for tool in self.tools or ()}
        if self.tool_choice == "required" and not names:
            raise ValueError("must have tools if tool_choice is 'required'")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError("must have the tool that tool_choice names")
        return self


class GenerationParameters(Body):
    max_new_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    do_sample: bool | None = None
    return_full_text: bool | None = None
