"""A request in OpenAI's terms, as the body of a create."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field

from server.errors import FieldError, Invalid, NotFound, Problem
from server.openai.forms import is_absent
from server.openai.scalars import read_flag, read_scalar
from server.schemas import Body, invalid, parse

AnyBody = TypeVar("AnyBody", bound=Body)

DEFAULT_MODEL = "default"
_DEFAULT_MODELS = frozenset({DEFAULT_MODEL, "tgi", "dummy"})
"""Names of the models that the server tries by default; huggingface_hub says `tgi` or `dummy` to any URL."""
_URL_SCHEMES = ("http://", "https://")
"""@huggingface/inference names the URL that it calls as its model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """`create` is the body of `POST /api/requests`, `names` maps its paths to the client's names."""

    create: Mapping[str, Any]
    model: str
    names: Mapping[str, str]
    is_streamed: bool = False
    wants_usage: bool = False
    """Whether usage follows in a chunk after the last one."""

    def refusal(self, problem: Invalid) -> Problem:
        """The errors of `create`, under the client's names."""
        errors = [FieldError(self._name_of(error.field), error.message) for error in problem.errors]
        if any(error.field == "model" for error in errors):
            message = f"The model '{self.model}' is not one that this server offers; GET /v1/models lists them."
            return NotFound(message, errors=[FieldError("model", message)])
        return invalid(errors) if errors else problem

    def _name_of(self, path: str) -> str:
        for ours, theirs in self.names.items():
            if path == ours or path.startswith(f"{ours}."):
                return (theirs + path[len(ours) :]).removeprefix(".") or "(body)"
        return path


def create_body(
    model_type: str, model: str, *, input_data: Mapping[str, Any], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    body = {"model_type": model_type, "input_data": input_data, "parameters": parameters}
    return body if model in _DEFAULT_MODELS or model.startswith(_URL_SCHEMES) else body | {"model": model}


def read_fields(data: Any) -> dict[str, Any]:
    """The fields of a body; null and empty lists count as absent. Raises `Invalid` for a body that is no object."""
    if not isinstance(data, dict):
        raise invalid([FieldError("(body)", "must be a JSON object")])
    return {name: value for name, given in data.items() if not is_absent(value := read_scalar(name, given))}


class StreamOptions(Body):
    """Other fields have no effect."""

    model_config = ConfigDict(extra="ignore")

    include_usage: Annotated[bool | None, BeforeValidator(read_flag)] = None


class StreamedBody(Body):
    """Fields of a call whose answer may be streamed."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    stream: Annotated[bool, BeforeValidator(read_flag)] = False
    stream_options: StreamOptions | None = None

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def take_body(model: type[AnyBody], fields: dict[str, Any]) -> AnyBody:
    """Take the fields of `model` out of `fields`. Raises `Invalid`."""
    return parse(model, {name: fields.pop(name) for name in model.model_fields if name in fields})


def extra_of(fields: Mapping[str, Any], *, without: Collection[str]) -> dict[str, Any]:
    """The parameter with the fields that the server does not know. They go to the provider as they are."""
    extra = {name: value for name, value in fields.items() if name not in without}
    return {"extra": extra} if extra else {}


def refuse_others(data: Mapping[str, Any], *, only: Mapping[str, Sequence[Any]], not_supported: Sequence[str]) -> None:
    """Raise `Invalid` for other values than those in `only`, and for true values of the fields in `not_supported`."""
    errors = [
        FieldError(name, f"must be {' or '.join(map(_spelled, values))} here, or left out")
        for name, values in only.items()
        if name in data and not any(type(data[name]) is type(value) and data[name] == value for value in values)
    ]
    errors += [FieldError(name, "is not supported here: leave it out") for name in not_supported if data.get(name)]
    if errors:
        raise invalid(errors)


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
