"""The operations of `/v1`, whose bodies, answers and errors are those of OpenAI."""

from typing import Any

from server.catalog import MODEL_TYPES
from server.inference.events import Task
from server.openai.chat import NOT_SUPPORTED, ONLY, PASSED_ON, WITHOUT_EFFECT, ChatBody
from server.openai.embeddings import EmbeddingsBody
from server.openapi.examples import REQUEST_ID
from server.openapi.operation import Operation
from server.openapi.parts import header, json_answer, path
from server.openapi.schemas import Schema, ref

CHAT_BODY = "ChatCompletionBody"
EMBEDDINGS_BODY = "EmbeddingsBody"

_TAG = "OpenAI-compatible"
_KEY = header(
    "Idempotency-Key",
    "The same key with the same body gives the same request, for 24 hours. "
    "A call that has one is not cancelled when its client leaves.",
    {"type": "string", "minLength": 1, "maxLength": 255},
)
_MODEL = "A name of `GET /v1/models`; `default` (or `tgi`, `dummy`) is whichever the server tries first."
_USAGE = {"prompt_tokens": 72, "completion_tokens": 21, "total_tokens": 93}
_COMPLETION = {
    "id": f"chatcmpl-{REQUEST_ID}",
    "object": "chat.completion",
    "created": 1795420800,
    "model": "openai/gpt-oss-20b:fastest",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Rain taps on the roof\n…"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": _USAGE,
}
_STREAM = (
    f'data: {{"id":"chatcmpl-{REQUEST_ID}","object":"chat.completion.chunk","created":1795420800,'
    '"model":"openai/gpt-oss-20b:fastest","choices":[{"index":0,"delta":{"content":"Rain"},"logprobs":null,'
    '"finish_reason":null}]}\n\ndata: [DONE]\n\n'
)
_EMBEDDINGS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.2482, 0.4879, -0.2243]}],
    "model": "BAAI/bge-small-en-v1.5",
    "usage": None,
}
_MODEL_OBJECT = {"id": "openai/gpt-oss-20b:fastest", "object": "model", "created": 0, "owned_by": "openai"}
_ERROR = {
    "error": {
        "message": "temperature: must be less than or equal to 2.",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": None,
    }
}


def openai_schemas() -> dict[str, Schema]:
    """Bodies from what parses them: the frame is this surface's, the rest the catalog's."""
    types = {model_type.task: model_type for model_type in MODEL_TYPES}
    parameters = types[Task.CHAT_COMPLETION].parameters.__name__
    chat = ChatBody.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions: dict[str, Schema] = chat.pop("$defs")
    field = f"#/components/schemas/{parameters}/properties"
    chat["properties"] |= {
        "model": {"type": "string", "minLength": 1, "maxLength": 200, "description": _MODEL},
        "messages": {"$ref": f"#/components/schemas/{types[Task.CHAT_COMPLETION].input.__name__}/properties/messages"},
        **{name: {"$ref": f"{field}/{name}"} for name in PASSED_ON},
        "max_completion_tokens": {"$ref": f"{field}/max_tokens"},
        **{name: {"enum": [*values, None]} for name, values in ONLY.items()},
        **{name: {"description": "Taken without effect."} for name in WITHOUT_EFFECT},
    }
    chat |= {
        "title": CHAT_BODY,
        "description": f"As at OpenAI. Not supported, and refused by name: {', '.join(NOT_SUPPORTED)}.",
        "examples": [{"model": "default", "messages": [{"role": "user", "content": "Write a haiku about rain."}]}],
    }
    embeddings = EmbeddingsBody.model_json_schema()
    embedding_type = types[Task.FEATURE_EXTRACTION]
    embeddings["properties"] |= {
        "model": {"type": "string", "minLength": 1, "maxLength": 200, "description": _MODEL},
        "input": {"$ref": f"#/components/schemas/{embedding_type.input.__name__}/properties/text"},
        "dimensions": {"$ref": f"#/components/schemas/{embedding_type.parameters.__name__}/properties/dimensions"},
        "user": {"description": "Taken without effect."},
    }
    embeddings["examples"] = [{"model": "default", "input": "That is a happy person"}]
    return definitions | {CHAT_BODY: chat, EMBEDDINGS_BODY: embeddings} | _ANSWERS


def _object(description: str, **properties: Schema) -> Schema:
    return {"type": "object", "description": description, "required": list(properties), "properties": properties}


_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_ANSWERS: dict[str, Schema] = {
    "ChatCompletion": _object(
        "The answer. `reasoning_content` and `tool_calls` stand in the message where there are any.",
        id=_TEXT,
        object={"const": "chat.completion"},
        created={"type": "integer"},
        model=_TEXT,
        choices={
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": _object(
                "The only one.",
                index={"const": 0},
                message=_object("The next turn.", role={"const": "assistant"}, content=_TEXT_OR_NULL),
                finish_reason=_TEXT_OR_NULL,
            ),
        },
        usage={"type": ["object", "null"], "description": "Null where upstream did not say all of it."},
    ),
    "EmbeddingList": _object(
        "A vector for each text, in their order; in base64 where that was asked for.",
        object={"const": "list"},
        data={
            "type": "array",
            "items": _object(
                "One vector.",
                object={"const": "embedding"},
                index={"type": "integer"},
                embedding={"type": ["array", "string"], "items": {"type": "number"}},
            ),
        },
        model=_TEXT,
        usage={"type": ["object", "null"]},
    ),
    "OpenAIModel": _object(
        "A model that can be named.",
        id=_TEXT,
        object={"const": "model"},
        created={"type": "integer"},
        owned_by=_TEXT,
    ),
    "OpenAIModelList": _object(
        "`default` first.",
        object={"const": "list"},
        data={"type": "array", "items": {"$ref": "#/components/schemas/OpenAIModel"}},
    ),
    "OpenAIError": _object(
        "Any error below `/v1`.",
        error=_object("What is wrong.", message=_TEXT, type=_TEXT, param=_TEXT_OR_NULL, code=_TEXT_OR_NULL),
    ),
}

_REFUSED = json_answer("Refused.", ref("OpenAIError"), examples={"invalid": _ERROR}, header_names=("Retry-After",))
_FAILED = json_answer(
    "500 a bug of ours, 502 the model failed, 503 come back later, 504 the model was too slow.",
    ref("OpenAIError"),
    examples={
        "failed": {
            "error": {
                "message": "The model's provider answered with an error.",
                "type": "api_error",
                "param": None,
                "code": "model_error",
            }
        }
    },
    header_names=("Retry-After",),
)


def _operation(
    name: str,
    method: str,
    where: str,
    summary: str,
    answer: Schema,
    *,
    description: str = "",
    body: str | None = None,
    parameters: tuple[Any, ...] = (),
) -> Operation:
    return Operation(
        name,
        method,
        f"/v1{where}",
        _TAG,
        summary,
        {"200": answer, "4XX": _REFUSED, "5XX": _FAILED},
        description=description,
        body=body,
        parameters=parameters,
        problems=(),
    )


OPENAI = (
    _operation(
        "create_chat_completion",
        "post",
        "/chat/completions",
        "The next turn of a conversation, in OpenAI's protocol",
        json_answer(
            "The answer, whole or as server-sent events.",
            ref("ChatCompletion"),
            examples={"completed": _COMPLETION},
            header_names=("Location", "Idempotent-Replayed"),
            stream=_STREAM,
        ),
        description="A model request like any other, named by `Location`. It is cancelled when its client leaves.",
        body=CHAT_BODY,
        parameters=(_KEY,),
    ),
    _operation(
        "create_embeddings",
        "post",
        "/embeddings",
        "The vectors of texts, in OpenAI's protocol",
        json_answer(
            "The vectors.",
            ref("EmbeddingList"),
            examples={"completed": _EMBEDDINGS},
            header_names=("Location", "Idempotent-Replayed"),
        ),
        body=EMBEDDINGS_BODY,
        parameters=(_KEY,),
    ),
    _operation(
        "list_openai_models",
        "get",
        "/models",
        "The models that can be named on /v1",
        json_answer(
            "What this server offers.",
            ref("OpenAIModelList"),
            examples={"models": {"object": "list", "data": [_MODEL_OBJECT]}},
        ),
    ),
    _operation(
        "get_openai_model",
        "get",
        "/models/{id}",
        "One model",
        json_answer("It is offered.", ref("OpenAIModel"), examples={"model": _MODEL_OBJECT}),
        parameters=(path("id", "Its name, slashes and all.", {"type": "string"}),),
    ),
)
