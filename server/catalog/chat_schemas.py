"""Input and parameters of chat completion and text generation."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
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

from server.catalog.chat_parts import Part, ProviderFields
from server.catalog.fields import (
    ExtraParameters,
    HubInput,
    MaxTokens,
    Penalty,
    Prompt,
    Seed,
    Stop,
    Temperature,
    TopP,
    Word,
    to_json_text,
)
from server.schemas import Body

MAX_PARTS = 10_000
MAX_TOOLS = 1024

FunctionName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""Providers differ in the names that they take."""
JsonSchemaText = Annotated[
    str,
    WrapValidator(to_json_text),
    WithJsonSchema({"type": "object", "description": "A JSON schema; the order of its keys is kept."}),
]
"""An object that is stored as JSON text, because models answer in the order of its keys."""


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
    """Its name is whatever a model made up in an answer."""

    name: Annotated[str, StringConstraints(max_length=200)]
    arguments: str


class ToolCall(ProviderFields):
    """A tool call of the model, as part of the conversation."""

    id: str
    type: Literal["function"] = "function"
    index: int | None = None
    function: CalledFunction


class Message(ProviderFields):
    """One turn of a conversation. An answer may keep its reasoning and its refusal: some providers want them back.

    `prefix` and `partial` mark an answer that the model has to continue (Mistral, DeepSeek; Moonshot).
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = Field(None, validate_default=True)
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning: str | dict[str, Any] | None = None
    reasoning_content: str | None = None
    reasoning_details: list[dict[str, Any]] | dict[str, Any] | None = None
    prefix: bool | None = None
    partial: bool | None = None

    @field_validator("content")
    @classmethod
    def _has_content(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and info.data.get("role") != "assistant":
            raise ValueError("is required")
        return content

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("must have the role 'assistant' to hold tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("must have a tool_call_id if its role is 'tool', and only then")
        if self.content is None and self.tool_calls is None:
            self.content = ""  # an empty answer
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
    description: str | None = None
    parameters: JsonSchemaText | None = None
    strict: bool | None = None


class Tool(ProviderFields):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function


class ProviderDefined(Body):
    """A tool or a format of a kind that only the provider knows (`web_search`, `grammar`, …), passed on unchanged."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]


_OBJECT: TypeAdapter[ProviderDefined] = TypeAdapter(ProviderDefined)


def _by_type(model: type[Body], *types: str) -> WrapValidator:
    """Validates by the `type` field, so that one fault gives one error: an object of another type is the provider's."""
    ours: TypeAdapter[Any] = TypeAdapter(model)

    def validate(value: Any, _handler: ValidatorFunctionWrapHandler) -> Any:
        is_ours = not isinstance(value, dict) or value.get("type") in {None, *types}
        return (ours if is_ours else _OBJECT).validate_python(value)

    return WrapValidator(validate)


AnyTool = Annotated[Tool | ProviderDefined, _by_type(Tool, "function", "custom")]
"""The calls of a `custom` tool have no place in an answer here."""


class NamedFunction(Body):
    name: FunctionName


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Body):
    """OpenAI's choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: dict[str, Any]


_NAMED_TOOL: TypeAdapter[NamedTool] = TypeAdapter(NamedTool)
_ALLOWED_TOOLS: TypeAdapter[AllowedTools] = TypeAdapter(AllowedTools)
_TOOL_CHOICES = ("none", "auto", "required")


def _tool_choice(value: Any, _handler: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, dict):
        return (_ALLOWED_TOOLS if value.get("type") == "allowed_tools" else _NAMED_TOOL).validate_python(value)
    if value not in _TOOL_CHOICES:
        raise ValueError("must be 'none', 'auto', 'required' or one of the tools")
    return value


ToolChoice = Annotated[Literal["none", "auto", "required"] | NamedTool | AllowedTools, WrapValidator(_tool_choice)]


class NamedSchema(Body):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[JsonSchemaText, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Body):
    """The format of the answer. Not every provider obeys it. `regex` is TGI's, with the expression in `value`."""

    type: Literal["text", "json_object", "json_schema", "regex"]
    json_schema: NamedSchema | None = None
    value: Annotated[str, StringConstraints(min_length=1, max_length=10_000)] | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("must have a json_schema if its type is 'json_schema', and only then")
        if (self.value is not None) != (self.type == "regex"):
            raise ValueError("must have a value if its type is 'regex', and only then")
        return self


AnyFormat = Annotated[
    ResponseFormat | ProviderDefined, _by_type(ResponseFormat, "text", "json_object", "json_schema", "regex")
]


class ChatParameters(ExtraParameters):
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    reasoning_effort: Word | None = None
    response_format: AnyFormat | None = None
    tools: Annotated[list[AnyTool], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _chooses_among_tools(self) -> Self:
        names = {tool.function.name for tool in self.tools or () if isinstance(tool, Tool)}
        if self.tool_choice == "required" and not self.tools:
            raise ValueError("must have tools if tool_choice is 'required'")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError("must have the tool that tool_choice names")
        if not self.tools:  # some providers refuse both where there is nothing to choose from
            self.tool_choice = self.parallel_tool_calls = None
        return self


class GenerationParameters(ExtraParameters):
    max_new_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    do_sample: bool | None = None
    return_full_text: bool | None = None
