"""The bodies and answers of `/v1` and `/auth/v1` in the shapes of OpenAI and Supabase: for the document only."""

from typing import Any, Literal, get_args
from uuid import UUID

from pydantic import BaseModel, Field, create_model

from server.catalog.chat_schemas import ChatParameters, GenerationParameters, PromptInput, TextInput
from server.catalog.text_schemas import EmbeddingInput, EmbeddingParameters
from server.openai import chat, completions, embeddings
from server.openapi.objects import (
    REQUEST_ID,
    USER_ID,
    CompletionTokensDetails,
    Described,
    PromptTokensDetails,
    example_of,
    shown,
)

CHAT_STREAM = (
    f'data: {{"id":"chatcmpl-{REQUEST_ID}","object":"chat.completion.chunk","created":1795420800,'
    '"model":"openai/gpt-oss-20b:fastest","choices":[{"index":0,"delta":{"content":"Rain"},"logprobs":null,'
    '"finish_reason":null}]}\n\ndata: [DONE]\n\n'
)
COMPLETION_STREAM = (
    f'data: {{"id":"cmpl-{REQUEST_ID}","object":"text_completion","created":1795420800,'
    '"model":"openai/gpt-oss-20b:fastest","choices":[{"index":0,"text":" there","logprobs":null,'
    '"finish_reason":null}]}\n\ndata: [DONE]\n\n'
)
_MODEL = shown(
    "default",
    "A name of `GET /v1/models`; `default` (or `tgi`, `dummy`) is whichever the server tries first.",
    min_length=1,
    max_length=200,
)
_WITHOUT_EFFECT = (Any, Field(default=None, description="Taken without effect."))


def _only(values: tuple[Any, ...]) -> tuple[Any, Any]:
    """A field that may be left out, be null or have one of these values."""
    schema: dict[str, Any] = {"enum": list(values), "type": "string"} if len(values) > 1 else _constant(values[0])
    return Any, Field(default=None, json_schema_extra=lambda shown: shown.update(anyOf=[schema, {"type": "null"}]))


def _constant(value: Any) -> dict[str, Any]:
    return {"type": "array", "items": _constant(value[0])} if isinstance(value, list) else {"const": value}


def _field_of(model: type[BaseModel], name: str) -> tuple[Any, Any]:
    """A field as the catalog judges it."""
    field = model.model_fields[name]
    return field.rebuild_annotation(), field


_CHAT_FIELDS: dict[str, Any] = {
    "model": (str, _MODEL),
    "messages": (
        get_args(TextInput.model_fields["messages"].annotation)[0],
        shown([{"role": "user", "content": "Write a haiku about rain."}]),
    ),
    **{name: _field_of(ChatParameters, name) for name in chat.PASSED_ON},
    "max_completion_tokens": _field_of(ChatParameters, "max_tokens"),
    **{name: _only(values) for name, values in chat.ONLY.items()},
    **dict.fromkeys(chat.WITHOUT_EFFECT, _WITHOUT_EFFECT),
}
_COMPLETION_FIELDS: dict[str, Any] = {
    "model": (str, _MODEL),
    "prompt": (PromptInput.model_fields["prompt"].rebuild_annotation(), shown("Once upon a time")),
    **{theirs: _field_of(GenerationParameters, ours) for theirs, ours in completions.PARAMETERS.items()},
    **{name: _only(values) for name, values in completions.ONLY.items()},
    **dict.fromkeys(completions.WITHOUT_EFFECT, _WITHOUT_EFFECT),
}
_EMBEDDING_FIELDS: dict[str, Any] = {
    "model": (str, _MODEL),
    "input": (EmbeddingInput.model_fields["text"].rebuild_annotation(), shown("That is a happy person")),
    **{name: _field_of(EmbeddingParameters, name) for name in embeddings.PASSED_ON},
    **dict.fromkeys(embeddings.WITHOUT_EFFECT, _WITHOUT_EFFECT),
}
_OPEN: dict[str, Any] = {"defer_build": True, "extra": "allow"}


def _refused(names: tuple[str, ...]) -> str:
    return f"As at OpenAI. Other fields go to the provider unchanged. Refused by name: {', '.join(names)}."


CHAT_BODY = create_model(
    "ChatCompletionBody",
    __base__=chat.ChatBody,
    __cls_kwargs__=_OPEN,
    __doc__=_refused(chat.NOT_SUPPORTED),
    **_CHAT_FIELDS,
)
COMPLETION_BODY = create_model(
    "CompletionBody",
    __base__=completions.CompletionBody,
    __cls_kwargs__=_OPEN,
    __doc__=_refused(completions.NOT_SUPPORTED),
    **_COMPLETION_FIELDS,
)
EMBEDDINGS_BODY = create_model(
    "EmbeddingsBody",
    __base__=embeddings.EmbeddingsBody,
    __cls_kwargs__=_OPEN,
    __doc__=_refused(embeddings.NOT_SUPPORTED),
    **_EMBEDDING_FIELDS,
)


class CompletionMessage(Described):
    """The next turn, with what the model thought before it and the tools it wants to have called, if there are any."""

    role: Literal["assistant"] = shown("assistant")
    content: str | None = shown("Rain taps on the roof\n…")
    refusal: str = Field(default="", description="In place of the content, if the model refuses to answer.")
    reasoning_content: str = ""
    tool_calls: list[dict[str, Any]] = Field(default=[])
    images: list[dict[str, Any]] = Field(default=[], description="Images that the model made, as `data:` URLs.")


class CompletionChoice(Described):
    index: int = shown(0)
    message: CompletionMessage = shown(example_of(CompletionMessage))
    logprobs: dict[str, Any] | None = shown(None)
    finish_reason: str | None = shown("stop")


class CompletionUsage(Described):
    prompt_tokens: int = shown(72)
    completion_tokens: int = shown(21)
    total_tokens: int = shown(93)
    prompt_tokens_details: PromptTokensDetails = Field(default_factory=PromptTokensDetails)
    completion_tokens_details: CompletionTokensDetails = Field(default_factory=CompletionTokensDetails)


class ChatCompletion(Described):
    """The answer of a chat completion."""

    id: str = shown(f"chatcmpl-{REQUEST_ID}")
    object: Literal["chat.completion"] = shown("chat.completion")
    created: int = shown(1795420800)
    model: str = shown("openai/gpt-oss-20b:fastest")
    choices: list[CompletionChoice] = shown([example_of(CompletionChoice)], min_length=1, max_length=1)
    usage: CompletionUsage | None = shown(example_of(CompletionUsage), "Null where upstream did not say all of it.")


class TextCompletionChoice(Described):
    index: int = shown(0)
    text: str = shown(" there was a server that lost nothing.")
    logprobs: dict[str, Any] | None = shown(None)
    finish_reason: str | None = shown("stop")


class TextCompletion(Described):
    """The continuation of a text."""

    id: str = shown(f"cmpl-{REQUEST_ID}")
    object: Literal["text_completion"] = shown("text_completion")
    created: int = shown(1795420800)
    model: str = shown("featherless-ai/some-model")
    choices: list[TextCompletionChoice] = shown([example_of(TextCompletionChoice)], min_length=1, max_length=1)
    usage: CompletionUsage | None = shown(example_of(CompletionUsage), "Null where upstream did not say all of it.")


class OpenAIEmbedding(Described):
    object: Literal["embedding"] = shown("embedding")
    index: int = shown(0)
    embedding: list[float] | str = shown([0.2482, 0.4879, -0.2243], "In base64 where that was asked for.")


class EmbeddingUsage(Described):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Described):
    """A vector for each text, in their order."""

    object: Literal["list"] = shown("list")
    data: list[OpenAIEmbedding] = shown([example_of(OpenAIEmbedding)])
    model: str = shown("BAAI/bge-small-en-v1.5")
    usage: EmbeddingUsage | None = shown(None)


class OpenAIModel(Described):
    """A model that can be named."""

    id: str = shown("openai/gpt-oss-20b:fastest")
    object: Literal["model"] = shown("model")
    created: int = shown(0)
    owned_by: str = shown("openai")


class OpenAIModelList(Described):
    """`default` first."""

    object: Literal["list"] = shown("list")
    data: list[OpenAIModel] = shown([example_of(OpenAIModel)])


class OpenAIErrorDetail(Described):
    message: str = shown("temperature: must be less than or equal to 2.")
    type: str = shown("invalid_request_error")
    param: str | None = shown("temperature")
    code: str | None = shown(None)


class OpenAIError(Described):
    """Any error below `/v1`."""

    error: OpenAIErrorDetail = shown(example_of(OpenAIErrorDetail))


class GoTrueForm(Described):
    """The body of a call to Supabase Auth. An operation takes the fields that it needs and ignores the others."""

    email: str = Field(default="", description="Of the account.")
    password: str = Field(default="", description="At least 8 characters where it is a new one.")
    current_password: str = Field(default="", description="Checked, if it is sent, before a new one is taken.")
    refresh_token: str = Field(default="", description="For `grant_type=refresh_token`.")
    data: dict[str, Any] = Field(default={}, description="The user's metadata, at most 2 KB; merged on a change.")


class GoTrueUser(Described):
    """A user as Supabase Auth shows it."""

    id: UUID = shown(USER_ID)
    aud: str = shown("authenticated")
    role: str = shown("authenticated")
    email: str = shown("alice@example.com")
    user_metadata: dict[str, Any] = Field(default={})


class GoTrueSession(Described):
    """A session as Supabase Auth gives it."""

    access_token: str = shown("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI2ZjFj.c2lnbmF0dXJl")
    token_type: str = shown("bearer")
    expires_in: int = shown(3600)
    expires_at: int = shown(1795003600)
    refresh_token: str = shown("q2mR8vYJx3")
    user: GoTrueUser = shown(example_of(GoTrueUser))


class GoTrueError(Described):
    """A refusal as Supabase Auth words it: `code` is a word with `message`, or a number with `msg`."""

    code: str | int = shown("invalid_credentials")
    message: str = Field(default="", examples=["Invalid login credentials"])
    msg: str = ""
