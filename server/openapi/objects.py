"""The public objects as pydantic models: for the document and its examples. Answers are not rendered through them.

The name of a component is that of its class without `Object`, which tells it from the class that the server works with.
"""

from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, EmailStr, Field

from server import __version__
from server.auth.accounts import CHECK_YOUR_EMAIL
from server.auth.principal import Scope
from server.errors import Code
from server.model_request import Status

USER_ID = "5f0c7c1e-6a0b-4a55-9d5e-0d6f2f0f7a11"
REQUEST_ID = "019ab0c4-5d1e-7c3a-9f20-3b1d2c4e5f60"
MOMENT = "2026-11-23T08:00:00.123456Z"


def shown(example: Any, description: str | None = None, **more: Any) -> Any:
    """A field with an example of its value."""
    return Field(examples=[example], description=description, **more)


def example_of(model: type[BaseModel]) -> dict[str, Any]:
    """An object whose fields have their examples; a field without one is left out."""
    return {name: field.examples[0] for name, field in model.model_fields.items() if field.examples}


class Described(BaseModel, defer_build=True):
    """A model that is built when the document asks for it, not at the start of the server."""


class PromptTokensDetails(Described):
    cached_tokens: int = Field(default=0, description="Read from the provider's cache.")
    audio_tokens: int = 0


class CompletionTokensDetails(Described):
    reasoning_tokens: int = Field(default=0, description="Generated as reasoning.")
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class UsageObject(Described):
    """Counts of tokens. A count that upstream did not give is absent."""

    prompt_tokens: int = Field(default=0, examples=[72])
    completion_tokens: int = Field(default=0, examples=[21])
    total_tokens: int = Field(default=0, examples=[93])
    prompt_tokens_details: PromptTokensDetails = Field(
        default_factory=PromptTokensDetails, examples=[{"cached_tokens": 64}]
    )
    completion_tokens_details: CompletionTokensDetails = Field(
        default_factory=CompletionTokensDetails, examples=[{"reasoning_tokens": 12}]
    )


class UpstreamErrorObject(Described):
    """An error of the model's provider, for programs; error_msg has its words."""

    status: int = shown(400, "The status that fits its meaning: 400 for a request that the provider refuses, 404 …")
    code: str = Field(default="", examples=["context_length_exceeded"], description="The provider's own code.")
    param: str = Field(default="", examples=["messages"], description="The field that the provider names.")
    retry_after_s: float = Field(default=0, description="The pause in seconds for which the provider asked.")


class ModelRequestObject(Described):
    """One accepted request and, once it is final, its result."""

    id: UUID = shown(REQUEST_ID, "UUIDv7: later requests have greater ids.")
    created_at: datetime = shown(MOMENT)
    completed_at: datetime | None = shown(None, "When it became final.")
    user_id: UUID = shown(USER_ID)
    status: Status = shown("processing", "completed, failed and cancelled are final.")
    model_type: str = shown("text2text", "The model type, by the name that the create used.")
    model: str | None = shown(
        "openai/gpt-oss-20b:fastest",
        "The model that is tried first, or that answered; null where upstream chooses.",
    )
    input_data: dict[str, Any] = shown({"prompt": "Write a haiku about rain."}, "As it was sent.")
    output_data: dict[str, Any] | None = shown(
        None,
        "By model type. The text of an answer is in output. Partial text of a failed or cancelled request is kept "
        "with partial: true; answers of the offline test double carry offline: true.",
    )
    error_msg: str | None = shown(None, "Why it failed, as a sentence that can be shown to a user.")
    error_code: Code | None = shown(None, "Null unless it failed.")
    upstream_error: UpstreamErrorObject | None = shown(None, "The provider's error, for programs.")
    token_used: int | None = shown(None, "Tokens of prompt and answer; null where upstream did not say.")
    token_count: int | None = shown(None, "Tokens generated; null where upstream did not say.")
    usage: UsageObject | None = shown(None, "All counts that upstream gave, under OpenAI's names.")
    cost_usd: float | None = shown(None, "Dollars, from listed prices; null where a price or a count is unknown.")
    processing_time: float | None = shown(None, "Seconds from its start to its end.")
    attempt: int = shown(1, "How often it was started; more than 1 after a crash.")
    queue_position: int | None = shown(None, "How many are ahead of it; null once it has started.")
    deadline_at: datetime = shown("2026-11-23T08:10:00.123456Z", "When it fails if it has not ended.")


RUNNING = example_of(ModelRequestObject)
_FINAL = RUNNING | {"completed_at": "2026-11-23T08:00:01.456789Z", "processing_time": 1.333}
COMPLETED = _FINAL | {
    "status": "completed",
    "output_data": {"output": "Rain taps on the roof\n…", "finish_reason": "stop"},
    "token_used": 93,
    "token_count": 21,
    "usage": example_of(UsageObject),
    "cost_usd": 0.0000129,
}
FAILED = _FINAL | {
    "status": "failed",
    "error_msg": "The server's Hugging Face account has no credits left. Its operator would have to buy credits.",
    "error_code": "MODEL_ERROR",
}
CANCELLED = _FINAL | {"status": "cancelled", "output_data": {"output": "Rain taps", "partial": True}}


class UsageTotalObject(Described):
    """Sums over requests that have ended. Each count of tokens is the sum of what upstream counted."""

    completed: int = shown(41)
    failed: int = shown(2)
    cancelled: int = shown(1)
    input_tokens: int = shown(3061)
    output_tokens: int = shown(1210)
    cached_tokens: int = shown(640, "Of the input, read from the provider's cache.")
    reasoning_tokens: int = shown(500, "Of the output, generated as reasoning.")
    total_tokens: int = shown(4271)
    unmetered: int = shown(0, "Requests with an answer, whole or partial, that upstream did not count.")
    unpriced: int = shown(0, "Requests with an answer, whole or partial, whose cost is unknown.")
    cost_usd: float | None = shown(0.0005481, "Dollars, without the unpriced requests; null if all are unpriced.")


class UsageRowObject(UsageTotalObject):
    """Sums of one group: of a day, of a model, or of a model on a day."""

    day: date = Field(default=date.min, examples=["2026-11-23"], description="In UTC; only if grouped by day.")
    model: str | None = Field(
        default=None,
        examples=["openai/gpt-oss-20b:fastest"],
        description="The model that answered, null if it is unknown; only if grouped by model.",
    )


class LimitObject(Described):
    """A limit of the user."""

    name: str = shown("requests_per_minute")
    limit: int = shown(60)
    used: int = shown(3)
    remaining: int = shown(57)
    resets_at: datetime | None = shown("2026-11-23T08:00:03.000000Z", "When all of it is available; null if it is.")


class UsageReportObject(Described):
    """The usage of a user in a period, and the limits now."""

    data: list[UsageRowObject] = shown([example_of(UsageRowObject)])
    total: UsageTotalObject = shown(example_of(UsageTotalObject))
    limits: list[LimitObject] = shown([example_of(LimitObject)], "Without those that are off.")


class FieldProblemObject(Described):
    field: str = shown("input_data.prompt")
    message: str = shown("is required")


class ProblemObject(Described):
    """The shape of every error. A request that ran and failed is no error: it is a ModelRequest with status failed."""

    error: str = Field(description="Short, and always the same for the same kind of error.")
    detail: str = Field(description="The remedy, for the caller.")
    code: Code
    request_id: str = Field(description="Finds the server's log lines; the same as the header X-Request-Id.")
    errors: list[FieldProblemObject] = Field(
        default=[], description="Everything that is wrong, each by its dotted path."
    )


class UploadedFileObject(Described):
    id: UUID = shown("01a213da-a37a-77e3-816c-29f69867836f")
    content_type: str = shown("image/png", "The type that the first bytes of the file show.")
    size: int = shown(48_213, "In bytes.", ge=1)
    created_at: datetime = shown("2026-11-25T08:00:00.123456Z")


class ApiKeyObject(Described):
    """An API key, without the key itself."""

    id: UUID = shown("019ab0c4-7a10-7d11-8c55-0a4e1f9b2c33")
    prefix: str = shown("ask_7dXk2P", "The beginning of the key, to tell keys apart.")
    name: str = shown("nightly job")
    scopes: list[Scope] = shown(["create", "read"], "The scopes that limit the key.")
    requests_per_minute: int | None = shown(None, "Its own limit of creates and uploads, next to that of the user.")
    created_at: datetime = shown(MOMENT)
    expires_at: datetime | None = shown(None, "Null: it does not expire.")
    last_used_at: datetime | None = shown(None, "To the minute. Null: never used.")


class NewApiKeyObject(ApiKeyObject):
    """An API key with the key itself, which is shown this one time."""

    key: str = shown("ask_7dXk2PzUpB0c…", "Keep it secret: it is not stored here.")


class UserObject(Described):
    """An account."""

    id: UUID = shown(USER_ID)
    email: EmailStr = shown("alice@example.com")
    created_at: datetime = shown("2026-11-23T07:59:00.000000Z")
    last_sign_in_at: datetime | None = shown("2026-11-23T07:59:30.000000Z")


class SessionObject(Described):
    """A signed-in user's tokens."""

    message: str = Field(default="", description="Only in the answer to a sign-up.")
    token: str = shown(
        "eyJhbGciOiJIUzI1NiIs….eyJzdWIiOiI1ZjBj….Xq3k", "The access token, for 'Authorization: Bearer …'."
    )
    token_type: Literal["bearer"] = shown("bearer")
    expires_in: int = shown(3600, "Seconds until the access token expires.")
    expires_at: int = shown(1795424370, "The same as a Unix time.")
    refresh_token: str = shown("v1.Xr8…", "Works once, at /auth/refresh.")
    user: UserObject = shown(example_of(UserObject))


class AddressObject(Described):
    email: EmailStr


class UnconfirmedObject(Described):
    """An account whose address has to be confirmed; nothing more is said of it."""

    message: str = shown(CHECK_YOUR_EMAIL)
    user: AddressObject = shown({"email": "alice@example.com"})


class NoticeObject(Described):
    """Words for the user."""

    message: str = shown("This server sends no e-mail: ask its operator to set a new password.")


class UpstreamObject(Described):
    ok: bool
    detail: str = Field(description="The state and the remedy, for the operator.")


class HealthObject(Described):
    """How the server is."""

    status: Literal["ok", "degraded", "starting", "draining", "stopped"] = shown("ok")
    version: str = shown(__version__)
    checks: dict[str, bool] = shown({"accepting": True, "lease": True, "database": True})
    backend: Literal["huggingface", "edge", "offline"] = shown("offline")
    model: str | None = shown("offline/echo", "The model that answers by default; null where upstream chooses.")
    upstream: UpstreamObject | None = shown(
        {"ok": True, "detail": "The models can be used."},
        "Whether the models can be used, as last checked; null before the first check. The server's log has the cause.",
    )
    sign_ups: Literal["open", "invite", "closed"] | None = shown(
        "open", "The policy for new accounts; null where Supabase decides."
    )
    running: int = shown(0, "Generations running here.")
    capacity: int = shown(64, "Generations that can run here at once.")
    instances: int = shown(1, "Processes alive on this database, as last seen.")
    files_shared: bool = shown(True, "Whether all of them keep files in one place.")  # noqa: FBT003 - an example


class LivenessObject(Described):
    """The event loop answers."""

    status: Literal["ok"] = shown("ok")


class ReadinessObject(Described):
    """Fit to take work now, or what is failing."""

    status: Literal["ok", "unavailable"] = shown("ok")
    failing: list[str] = shown([])


class IndexObject(Described):
    """Where things are."""

    name: str = shown("ai-sdk-server")
    version: str = shown(__version__)
    docs: str = shown("/docs")
    openapi: str = shown("/openapi.json")
    health: str = shown("/health")


class ModelTypeObject(Described):
    """One thing that can be asked for."""

    model_type: str = shown("chat-completion", "The `model_type` of a create.")
    aliases: list[str] = shown(["text2text", "chat", "text-to-text"], "Other names for the same.")
    task: str = shown("chat-completion", "Hugging Face's name of it.")
    description: str = shown("Text for a prompt or a conversation.")
    models: list[str] = shown(
        ["openai/gpt-oss-20b:fastest"], "Tried in this order by default; empty where upstream chooses."
    )
    input: dict[str, Any] = shown(
        {"type": "object", "properties": {"prompt": {"type": "string"}}}, "JSON Schema of `input_data`."
    )
    parameters: dict[str, Any] = shown(
        {"type": "object", "properties": {"max_tokens": {"type": "integer", "minimum": 1, "maximum": 32768}}},
        "JSON Schema of `parameters`, with their bounds.",
    )
    output: dict[str, Any] = shown(
        {"type": "object", "properties": {"output": {"type": "string"}}}, "JSON Schema of `output_data`."
    )
    example: dict[str, Any] = shown(
        {
            "model_type": "chat-completion",
            "input_data": {"prompt": "Write a haiku about rain."},
            "parameters": {"max_tokens": 200},
        },
        "A create that works.",
    )
    example_output: dict[str, Any] = shown(
        {"output": "Rain taps on the roof\n…", "finish_reason": "stop", "provider": "groq"}, "Its `output_data`."
    )


class PricingObject(Described):
    """Dollars per million tokens."""

    input: float | None = None
    output: float | None = None


class ProviderObject(Described):
    provider: str = shown("novita")
    status: str | None = shown("live")
    context_length: int | None = shown(204800)
    pricing: PricingObject | None = shown({"input": 0.6, "output": 2.2})
    supports_tools: bool | None = shown(True)  # noqa: FBT003 - an example


class LiveModelObject(Described):
    id: str = shown("zai-org/GLM-4.7")
    providers: list[ProviderObject] = shown([example_of(ProviderObject)])


class ListingObject(Described):
    fetched_at: datetime = shown(MOMENT)
    is_stale: bool = shown(False, "It is older than ten minutes.")  # noqa: FBT003 - an example
    models: list[LiveModelObject] = shown([example_of(LiveModelObject)])


class ModelsObject(Described):
    """The model types that this server offers, and the models that upstream lists."""

    model_types: list[ModelTypeObject] = shown([example_of(ModelTypeObject)])
    live: ListingObject | None = shown(
        example_of(ListingObject),
        "The listing of upstream; null where it lists nothing, or did not answer in time.",
    )
