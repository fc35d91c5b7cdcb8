"""Embeddings: from the body to a create, and from the final model request to the response."""

import base64
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from server.errors import FieldError, ModelFailed
from server.inference.events import Task
from server.openai.ask import Ask, create_body, read_fields
from server.schemas import Body, invalid, parse

_NOT_POOLED = (
    "This model gives a vector for every token, which has no place here: ask another model, or POST /api/requests."
)


class EmbeddingsBody(Body):
    """The fields around the texts; the catalog validates the rest."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Any = None
    user: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsAsk(Ask):
    is_base64: bool


def read_embeddings(data: Any) -> EmbeddingsAsk:
    """The body of `POST /v1/embeddings`. Raises `Invalid` for unknown and unsupported fields."""
    body = parse(EmbeddingsBody, read_fields(data))
    if isinstance(body.input, list) and any(isinstance(item, (int, list)) for item in body.input):
        raise invalid([FieldError("input", "must be a text or an array of texts: tokens are not supported here")])
    parameters = {} if body.dimensions is None else {"dimensions": body.dimensions}
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
