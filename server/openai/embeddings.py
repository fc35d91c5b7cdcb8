"""Embeddings: from the body to a create, and from the final model request to the response."""

import base64
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from server.catalog.fields import ORDERS_TO_PROXIES
from server.catalog.text_schemas import EmbeddingParameters
from server.errors import FieldError, ModelFailed
from server.inference.events import Task
from server.openai.ask import Ask, create_body, extra_of, read_fields, refuse_others, take_body
from server.schemas import Body, invalid

_NOT_POOLED = (
    "This model gives a vector for every token, which has no place here: ask another model, or POST /api/requests."
)


PASSED_ON = tuple(name for name in EmbeddingParameters.model_fields if name != "extra")
NOT_SUPPORTED = ("messages", "prompt", "stream", *ORDERS_TO_PROXIES)
WITHOUT_EFFECT = ("user", "metadata", "stream_options", "n", "best_of")
_TOKENS = (
    "must be a text or an array of texts: the tokens of another model's vocabulary mean nothing to this one. "
    "In LangChain, set check_embedding_ctx_length=False"
)


class EmbeddingsBody(Body):
    """The fields around the texts; the catalog validates the rest."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Any
    encoding_format: Literal["float", "base64"] = "float"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsAsk(Ask):
    is_base64: bool


def read_embeddings(data: Any) -> EmbeddingsAsk:
    """The body of `POST /v1/embeddings`. Raises `Invalid` for unsupported fields."""
    fields = read_fields(data)
    refuse_others(fields, only={}, not_supported=NOT_SUPPORTED)
    body = take_body(EmbeddingsBody, fields)
    if isinstance(body.input, list) and any(isinstance(item, (int, list)) for item in body.input):
        raise invalid([FieldError("input", _TOKENS)])
    parameters = {name: fields.pop(name) for name in PASSED_ON if name in fields}
    parameters |= extra_of(fields, without=(*NOT_SUPPORTED, *WITHOUT_EFFECT))
    return EmbeddingsAsk(
        create=create_body(Task.FEATURE_EXTRACTION, body.model, input_data={"text": body.input}, parameters=parameters),
        model=body.model,
        names={"input_data.text": "input", "input_data": "input", "parameters": ""},
        is_base64=body.encoding_format == "base64",
    )


def embedding_list(outcome: Mapping[str, Any], *, is_base64: bool) -> dict[str, Any]:
    """The `list` of a completed request. Raises `ModelFailed` if the model gives no vector for a whole text."""
    output = outcome["output_data"]
    if "token_embeddings" in output:
        raise ModelFailed(_NOT_POOLED)
    vectors = output["embeddings"] if "embeddings" in output else [output["embedding"]]
    used = outcome["token_used"]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if is_base64 else vector}
            for index, vector in enumerate(vectors)
        ],
        "model": outcome["model"],
        "usage": None if used is None else {"prompt_tokens": used, "total_tokens": used},
    }


def _packed(vector: list[float]) -> str:
    """Little-endian 32-bit floats, in base64."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
