"""What can be asked for: model types, their tasks and models, and what input and parameters each takes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from server.errors import FieldError, Invalid
from server.inference.events import Task
from server.schemas import Body, CreateRequest, field_errors, invalid, parse
from server.settings import Backend, Settings

ROUTER_CHAT_MODELS = (
    "openai/gpt-oss-20b:fastest",
    "openai/gpt-oss-120b:fastest",
    "meta-llama/Llama-3.1-8B-Instruct:fastest",
)
"""Served by several providers each; what is on offer changes monthly, so TEXT_MODELS overrides it."""
ROUTER_GENERATION_MODELS = ("meta-llama/Llama-3.1-8B:featherless-ai",)
"""Raw completion of text: featherless-ai alone serves it behind the router."""
OFFLINE_MODELS = (
    "offline/echo",
    "offline/slow-2s",
    "offline/slow-20s",
    "offline/long-stream",
    "offline/loading-503",
    "offline/no-credits",
    "offline/truncated",
)

# Neither part is dots alone: for raw generation they become a part of the path.
_ROUTER_MODEL = re.compile(r"(?!\.+/)[A-Za-z0-9._-]+/(?!\.+(?::|\Z))[A-Za-z0-9._-]+(?::[a-z0-9-]+)?", re.ASCII)
_OWN_MODEL = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*(?::[A-Za-z0-9._-]+)?", re.ASCII)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Prompt = Annotated[str, StringConstraints(min_length=1, max_length=200_000), AfterValidator(_not_blank)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
MaxTokens = Annotated[int, Field(ge=1, le=32_768)]
_STOP_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 200}
StopText = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Stop = Annotated[
    list[StopText],
    Field(min_length=1, max_length=4),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [_STOP_SCHEMA, {"type": "array", "items": _STOP_SCHEMA, "minItems": 1, "maxItems": 4}]}),
]
"""One text or up to four; a single one is kept as a list of one."""


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Prompt


class TextInput(Body):
    """A prompt, or a conversation to go on with."""

    prompt: Prompt | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=500)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("must have either prompt or messages")
        return self


class PromptInput(Body):
    """Text to be continued."""

    prompt: Prompt


class ChatParameters(Body):
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None


class GenerationParameters(Body):
    max_new_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    do_sample: bool | None = None
    return_full_text: bool | None = None


@dataclass(frozen=True, slots=True)
class ModelType:
    """One thing that can be asked for, under the name that clients use."""

    name: str
    task: Task
    description: str
    input: type[Body]
    parameters: type[Body]


MODEL_TYPES = (
    ModelType("text2text", Task.CHAT_COMPLETION, "Text for a prompt or a conversation.", TextInput, ChatParameters),
    ModelType("chat", Task.CHAT_COMPLETION, "The next turn of a conversation.", TextInput, ChatParameters),
    ModelType(
        "text-generation", Task.TEXT_GENERATION, "Raw continuation of a text.", PromptInput, GenerationParameters
    ),
)


class Catalog:
    """The model types, with the models that this server's settings give them."""

    def __init__(self, settings: Settings) -> None:
        self._types = {model_type.name: model_type for model_type in MODEL_TYPES}
        self._settings = settings

    def describe(self) -> list[dict[str, Any]]:
        """All that can be asked for here: schemas as JSON Schema, and the models to be tried by default."""
        return [
            {
                "model_type": model_type.name,
                "task": model_type.task.value,
                "description": model_type.description,
                "models": list(self._default_chain(model_type.task)),
                "input": model_type.input.model_json_schema(),
                "parameters": model_type.parameters.model_json_schema(),
            }
            for model_type in MODEL_TYPES
        ]

    def model_type(self, name: str) -> ModelType:
        """Raises `KeyError` for a name that `check` would refuse."""
        return self._types[name]

    def chain(self, name: str, model: str | None) -> tuple[str, ...]:
        """The models to try in order: `model` and, where it is of the default chain, those after it.

        Empty where the upstream is to say which model it has.
        """
        default = self._default_chain(self._types[name].task)
        if model is None:
            return default
        return default[default.index(model) :] if model in default else (model,)

    def check(
        self, name: str, input_data: Mapping[str, Any], parameters: Mapping[str, Any], model: str | None
    ) -> tuple[dict[str, Any], dict[str, Any], str | None]:
        """Input and parameters as they are kept, and the model that will be tried first.

        Raises `Invalid` with everything that is wrong, each by its path.
        """
        model_type = self._types.get(name)
        if model_type is None:
            known = ", ".join(self._types)
            raise invalid([FieldError("model_type", f"must be one of {known}")])
        errors: list[FieldError] = []
        checked = [
            _validated(body, data, prefix, errors)
            for body, data, prefix in (
                (model_type.input, input_data, "input_data"),
                (model_type.parameters, parameters, "parameters"),
            )
        ]
        if model is not None and not self._is_allowed(model, model_type.task):
            errors.append(FieldError("model", "is not one that this server offers"))
        if errors:
            raise invalid(errors)
        return checked[0], checked[1], next(iter(self.chain(name, model)), None)

    def _default_chain(self, task: Task) -> tuple[str, ...]:
        if self._settings.backend is Backend.OFFLINE:
            return OFFLINE_MODELS[:1]
        if self._settings.text_models:
            return self._settings.text_models
        if self._settings.has_own_base_url:
            return ()
        return ROUTER_CHAT_MODELS if task is Task.CHAT_COMPLETION else ROUTER_GENERATION_MODELS

    def _is_allowed(self, model: str, task: Task) -> bool:
        if self._settings.backend is Backend.OFFLINE:
            return model in OFFLINE_MODELS
        if model in self._default_chain(task) or model in self._settings.allowed_models:
            return True
        pattern = _OWN_MODEL if self._settings.has_own_base_url else _ROUTER_MODEL
        return "*" in self._settings.allowed_models and pattern.fullmatch(model) is not None


def read_create(catalog: Catalog, data: Any) -> tuple[CreateRequest, dict[str, Any], dict[str, Any], str | None]:
    """The body of a create, with its input, parameters and model as `Catalog.check` gives them.

    Raises `Invalid` with everything that is wrong: what stands around the input does not hide what is wrong in it.
    """
    try:
        body = parse(CreateRequest, data)
    except Invalid as problem:
        raise invalid([*problem.errors, *_faults_inside(catalog, data, problem.errors)]) from None
    return body, *catalog.check(body.model_type, body.input_data, body.parameters, body.model)


def _faults_inside(catalog: Catalog, data: Any, known: Sequence[FieldError]) -> list[FieldError]:
    """What is wrong within those fields of a create that are not wrong as a whole."""
    wrong = {error.field for error in known}
    if not isinstance(data, dict) or "model_type" in wrong:
        return []
    sound = {name: value for name, value in data.items() if name not in wrong}
    try:
        catalog.check(sound["model_type"], sound.get("input_data", {}), sound.get("parameters", {}), sound.get("model"))
    except Invalid as problem:
        return [error for error in problem.errors if error.field.partition(".")[0] not in wrong]
    return []


def _validated(body: type[Body], data: Mapping[str, Any], prefix: str, errors: list[FieldError]) -> dict[str, Any]:
    try:
        return body.model_validate(data).model_dump(exclude_none=True)
    except ValidationError as error:
        errors.extend(field_errors(error, prefix=prefix))
        return {}
