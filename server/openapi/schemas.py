"""The schemas of the document: bodies from the pydantic models that parse them, public objects written out."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.auth.forms import Credentials, Recovery, Refresh, SignIn
from server.auth.passwords import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH
from server.catalog import MODEL_TYPES, ModelType
from server.errors import Code
from server.model_request import Status
from server.openapi import examples
from server.schemas import CreateRequest

Schema = dict[str, Any]
REF = "#/components/schemas/"
CREATE = "CreateRequest"

_BODIES: tuple[type[BaseModel], ...] = (
    Credentials,
    SignIn,
    Refresh,
    Recovery,
    CreateRequest,
    *{model: None for model_type in MODEL_TYPES for model in (model_type.input, model_type.parameters)},
)

_FIELDS = {
    ("Credentials", "email"): "An address that could be real; no e-mail is sent to it. Kept in lower case.",
    ("Credentials", "password"): f"{MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters, whichever they are.",
    ("SignIn", "email"): "The address of the account, in upper or lower case.",
    ("SignIn", "password"): "The password of the account.",
    ("Refresh", "refresh_token"): "The one that came with the last access token.",
    ("Recovery", "email"): "The address of the account.",
}
"""What the fields of the account bodies are, for those who fill them in."""


def ref(name: str) -> Schema:
    return {"$ref": REF + name}


def component_schemas() -> dict[str, Schema]:
    """Every named schema of the document."""
    _, generated = models_json_schema([(model, "validation") for model in _BODIES], ref_template=REF + "{model}")
    bodies = dict(generated["$defs"])
    for (body, field), description in _FIELDS.items():
        bodies[body]["properties"][field]["description"] = description
    plain_create = bodies.pop(CREATE)
    variants = {_variant_name(model_type.name): _variant(plain_create, model_type) for model_type in MODEL_TYPES}
    return bodies | _outputs() | variants | {CREATE: _create(variants)} | _PUBLIC


def _outputs() -> dict[str, Schema]:
    """What `output_data` holds, a schema for each form, with the examples of all model types that have it."""
    outputs = list(dict.fromkeys(model_type.output for model_type in MODEL_TYPES))
    _, generated = models_json_schema([(output, "validation") for output in outputs], ref_template=REF + "{model}")
    schemas: dict[str, Schema] = dict(generated["$defs"])
    for model_type in MODEL_TYPES:
        examples_of = schemas[model_type.output.__name__].setdefault("examples", [])
        examples_of.append(model_type.example.output_data)
    return schemas


def _variant_name(model_type: str) -> str:
    return "Create" + "".join(word.capitalize() for word in model_type.split("-"))


def _variant(create: Schema, model_type: ModelType) -> Schema:
    """The create body for one model type: what input and parameters may hold depends on it."""
    example = {"model_type": model_type.name, "input_data": model_type.example.input_data}
    if model_type.example.parameters:
        example["parameters"] = model_type.example.parameters
    properties = create["properties"] | {
        "model_type": {"enum": list(model_type.names)},
        "input_data": ref(model_type.input.__name__),
        "parameters": ref(model_type.parameters.__name__),
    }
    return create | {
        "title": _variant_name(model_type.name),
        "description": f"{model_type.description} The answer's output_data is {model_type.output.__name__}.",
        "required": [*create["required"], *_required_parameters(model_type)],
        "properties": properties,
        "examples": [example],
    }


def _required_parameters(model_type: ModelType) -> list[str]:
    needs_some = any(field.is_required() for field in model_type.parameters.model_fields.values())
    return ["parameters"] if needs_some else []


def _create(variants: dict[str, Schema]) -> Schema:
    return {
        "description": "What input_data and parameters may hold depends on model_type. Unknown fields are refused.",
        "oneOf": [ref(name) for name in variants],
        "discriminator": {
            "propertyName": "model_type",
            "mapping": {
                name: REF + _variant_name(model_type.name) for model_type in MODEL_TYPES for name in model_type.names
            },
        },
        "examples": [
            {"model_type": "text2text", "input_data": {"prompt": examples.PROMPT}},
            *(schema["examples"][0] for schema in variants.values()),
        ],
    }


def _object(description: str, properties: dict[str, Schema], *, optional: frozenset[str] = frozenset()) -> Schema:
    return {
        "type": "object",
        "description": description,
        "required": [name for name in properties if name not in optional],
        "properties": properties,
    }


def _text(description: str = "", **more: Any) -> Schema:
    return {"type": "string"} | ({"description": description} if description else {}) | more


def _nullable(kind: str, description: str, **more: Any) -> Schema:
    return {"type": [kind, "null"], "description": description, **more}


_OUTPUT_NAMES = tuple(dict.fromkeys(model_type.output.__name__ for model_type in MODEL_TYPES))
_TIME = {"format": "date-time"}
_UUID = {"format": "uuid"}

_MODEL_REQUEST = _object(
    "One accepted request and, once it is final, its result.",
    {
        "id": _text("UUIDv7: later requests have greater ids.", **_UUID),
        "created_at": _text(**_TIME),
        "completed_at": _nullable("string", "When it became final.", **_TIME),
        "user_id": _text(**_UUID),
        "status": ref("Status"),
        "model_type": _text("What was asked for.", examples=["text2text"]),
        "model": _nullable("string", "The model that is tried first, or that answered; null where upstream chooses."),
        "input_data": {"type": "object", "description": "As it was sent."},
        "output_data": {
            "description": "By model type. The text of an answer is in output. Partial text of a failed or cancelled "
            "request is kept with partial: true; answers of the offline test double carry offline: true.",
            "anyOf": [*(ref(name) for name in _OUTPUT_NAMES), {"type": "null"}],
        },
        "error_msg": _nullable("string", "Why it failed, as a sentence that can be shown to a user."),
        "error_code": {"anyOf": [ref("Code"), {"type": "null"}], "description": "Null unless it failed."},
        "token_used": _nullable("integer", "Tokens of prompt and answer; null where upstream did not say."),
        "token_count": _nullable("integer", "Tokens generated; null where upstream did not say."),
        "processing_time": _nullable("number", "Seconds from its start to its end."),
        "attempt": {"type": "integer", "description": "How often it was started; more than 1 after a crash."},
        "queue_position": _nullable("integer", "How many are ahead of it; null once it has started."),
        "deadline_at": _text("When it fails if it has not ended.", **_TIME),
    },
)

_PROBLEM = _object(
    "Every error has this shape. A request that ran and failed is no error: it is a ModelRequest with status failed.",
    {
        "error": _text("Short, and always the same for the same kind of error."),
        "detail": _text("What to do about it."),
        "code": ref("Code"),
        "request_id": _text("Finds the server's log lines; the same as the header X-Request-Id."),
        "errors": {
            "type": "array",
            "description": "Everything that is wrong, each by its dotted path.",
            "items": _object("", {"field": _text(examples=["input_data.prompt"]), "message": _text()}),
        },
    },
    optional=frozenset({"errors"}),
)

_SESSION = _object(
    "A signed-in user's tokens.",
    {
        "message": _text("Only in the answer to a sign-up."),
        "token": _text("The access token, for 'Authorization: Bearer …'."),
        "token_type": {"const": "bearer"},
        "expires_in": {"type": "integer", "description": "Seconds until the access token expires."},
        "expires_at": {"type": "integer", "description": "The same as a Unix time."},
        "refresh_token": _text("Works once, at /auth/refresh."),
        "user": ref("User"),
    },
    optional=frozenset({"message"}),
)

_HEALTH = _object(
    "How the server is.",
    {
        "status": {"enum": ["ok", "degraded", "starting", "draining", "stopped"]},
        "version": _text(),
        "checks": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "backend": {"enum": ["huggingface", "edge", "offline"]},
        "model": _nullable("string", "The model that answers by default; null where upstream chooses."),
        "upstream": {
            "description": "Whether the models can be used, as last checked; null before the first check.",
            "anyOf": [
                _object("", {"ok": {"type": "boolean"}, "detail": _text("What to do, for the operator.")}),
                {"type": "null"},
            ],
        },
        "running": {"type": "integer", "description": "Generations running here."},
        "capacity": {"type": "integer", "description": "Generations that can run here at once."},
        "instances": {"type": "integer", "description": "Processes alive on this database, as last seen."},
        "files_shared": {"type": "boolean", "description": "Whether all of them keep files in one place."},
    },
)

_PUBLIC: dict[str, Schema] = {
    "ModelRequest": _MODEL_REQUEST,
    "Status": {"enum": [str(status) for status in Status], "description": "The last three are final."},
    "Problem": _PROBLEM,
    "Code": {"enum": [str(code) for code in Code]},
    "File": {
        "type": "object",
        "additionalProperties": False,
        "required": ["id", "content_type", "size", "created_at"],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "content_type": {"type": "string", "description": "What its first bytes say that it is."},
            "size": {"type": "integer", "minimum": 1, "description": "In bytes."},
            "created_at": {"type": "string", "format": "date-time"},
        },
    },
    "Session": _SESSION,
    "User": _object(
        "An account.",
        {
            "id": _text(**_UUID),
            "email": _text(format="email"),
            "created_at": _text(**_TIME),
            "last_sign_in_at": _nullable("string", "", **_TIME),
        },
    ),
    "Unconfirmed": _object(
        "An account whose address has to be confirmed; nothing more is said of it.",
        {"message": _text(), "user": _object("The address.", {"email": _text(format="email")})},
    ),
    "GoTrueObject": {"type": "object", "description": "As Supabase Auth answers."},
    "GoTrueForm": {
        "type": "object",
        "description": "What Supabase Auth is sent; an operation takes what it needs of it, and leaves the rest alone.",
        "properties": {
            "email": _text("Of the account."),
            "password": _text("At least 8 characters where it is a new one."),
            "current_password": _text("Checked, if it is sent, before a new one is taken."),
            "refresh_token": _text("For `grant_type=refresh_token`."),
            "data": {"type": "object", "description": "The user's metadata, at most 2 KB; merged on a change."},
        },
    },
    "GoTrueUser": {
        "type": "object",
        "description": "A user as Supabase Auth shows it.",
        "required": ["id", "aud", "role", "email"],
        "properties": {"id": _text(**_UUID), "email": _text(), "user_metadata": {"type": "object"}},
    },
    "GoTrueSession": {
        "type": "object",
        "description": "A session as Supabase Auth gives it.",
        "required": ["access_token", "token_type", "expires_in", "expires_at", "refresh_token", "user"],
        "properties": {"access_token": _text(), "refresh_token": _text(), "user": ref("GoTrueUser")},
    },
    "GoTrueError": {
        "type": "object",
        "description": "A refusal as Supabase Auth words it: `code` is a word with `message`, or a number with `msg`.",
        "required": ["code"],
        "properties": {"code": {"type": ["string", "integer"]}, "message": _text(), "msg": _text()},
    },
    "Notice": _object("Words for the user.", {"message": _text()}),
    "Health": _HEALTH,
    "Liveness": _object("The event loop answers.", {"status": {"const": "ok"}}),
    "Readiness": _object(
        "Fit to take work now, or what is failing.",
        {"status": {"enum": ["ok", "unavailable"]}, "failing": {"type": "array", "items": {"type": "string"}}},
    ),
    "Index": _object(
        "Where things are.",
        {"name": _text(), "version": _text(), "docs": _text(), "openapi": _text(), "health": _text()},
    ),
}
