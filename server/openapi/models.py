"""The operation that shows what can be asked for."""

from server.openapi.operation import SIGNED_IN, USUAL, Operation
from server.openapi.parts import empty_answer, json_answer
from server.openapi.schemas import Schema

_NULLABLE_NUMBER: Schema = {"type": ["number", "null"]}
_MODEL_TYPE: Schema = {
    "type": "object",
    "description": "One thing that can be asked for.",
    "required": [
        "model_type",
        "aliases",
        "task",
        "description",
        "models",
        "input",
        "parameters",
        "output",
        "example",
        "example_output",
    ],
    "properties": {
        "model_type": {"type": "string", "description": "The `model_type` of a create."},
        "aliases": {"type": "array", "items": {"type": "string"}, "description": "Other names for the same."},
        "task": {"type": "string", "description": "Hugging Face's name of it."},
        "description": {"type": "string"},
        "models": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Tried in this order by default; empty where upstream chooses.",
        },
        "input": {"type": "object", "description": "JSON Schema of `input_data`."},
        "parameters": {"type": "object", "description": "JSON Schema of `parameters`, with their bounds."},
        "output": {"type": "object", "description": "JSON Schema of `output_data`."},
        "example": {"type": "object", "description": "A create that works."},
        "example_output": {"type": "object", "description": "Its `output_data`."},
    },
}
_PROVIDER: Schema = {
    "type": "object",
    "required": ["provider", "status", "context_length", "pricing", "supports_tools"],
    "properties": {
        "provider": {"type": "string"},
        "status": {"type": ["string", "null"]},
        "context_length": {"type": ["integer", "null"]},
        "pricing": {
            "type": ["object", "null"],
            "description": "Dollars per million tokens.",
            "properties": {"input": _NULLABLE_NUMBER, "output": _NULLABLE_NUMBER},
        },
        "supports_tools": {"type": ["boolean", "null"]},
    },
}
_LIVE: Schema = {
    "description": "What upstream lists at the moment; null where it lists nothing, or did not answer in time.",
    "anyOf": [
        {
            "type": "object",
            "required": ["fetched_at", "is_stale", "models"],
            "properties": {
                "fetched_at": {"type": "string", "format": "date-time"},
                "is_stale": {"type": "boolean", "description": "It is older than ten minutes."},
                "models": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["id", "providers"],
                        "properties": {
                            "id": {"type": "string"},
                            "providers": {"type": "array", "items": _PROVIDER},
                        },
                    },
                },
            },
        },
        {"type": "null"},
    ],
}
_EXAMPLE = {
    "model_types": [
        {
            "model_type": "chat-completion",
            "aliases": ["text2text", "chat", "text-to-text"],
            "task": "chat-completion",
            "description": "Text for a prompt or a conversation.",
            "models": ["openai/gpt-oss-20b:fastest"],
            "input": {"type": "object", "properties": {"prompt": {"type": "string"}}},
            "parameters": {
                "type": "object",
                "properties": {"max_tokens": {"type": "integer", "minimum": 1, "maximum": 32768}},
            },
            "output": {"type": "object", "properties": {"output": {"type": "string"}}},
            "example": {
                "model_type": "chat-completion",
                "input_data": {"prompt": "Write a haiku about rain."},
                "parameters": {"max_tokens": 200},
            },
            "example_output": {"output": "Rain taps on the roof\n…", "finish_reason": "stop", "provider": "groq"},
        }
    ],
    "live": {
        "fetched_at": "2026-11-23T08:00:00.123456Z",
        "is_stale": False,
        "models": [
            {
                "id": "zai-org/GLM-4.7",
                "providers": [
                    {
                        "provider": "novita",
                        "status": "live",
                        "context_length": 204800,
                        "pricing": {"input": 0.6, "output": 2.2},
                        "supports_tools": True,
                    }
                ],
            }
        ],
    },
}

MODELS = (
    Operation(
        "list_models",
        "get",
        "/api/models",
        "Models",
        "What can be asked for",
        {
            "200": json_answer(
                "The model types that this server offers, and the models that upstream lists.",
                {
                    "type": "object",
                    "required": ["model_types", "live"],
                    "properties": {"model_types": {"type": "array", "items": _MODEL_TYPE}, "live": _LIVE},
                },
                examples={"models": _EXAMPLE},
                header_names=("ETag",),
            ),
            "304": empty_answer("Unchanged.", "ETag"),
        },
        description="The listing is kept for ten minutes, and shown as stale while it cannot be had anew.",
        alias="/models",
        problems=(*SIGNED_IN, *USUAL),
    ),
)
