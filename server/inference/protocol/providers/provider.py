"""One provider behind the router, and what the calls of several providers share.

Shapes: huggingface_hub 2.4.0, `inference/_providers`. A provider knows a model by an id of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from server.inference.events import Call, Task
from server.inference.protocol.pipelines import embedding_body, file_of, parameters_of, post_json
from server.inference.protocol.wire import Base64, WireRequest, as_data_url, attachment_of

Build = Callable[[Call, str, str], WireRequest]
"""Makes the request for a call, from the provider's id of the model and the provider's URL behind the router."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """How a provider is called and what its answers look like. `name` is the suffix of a model's id."""

    name: str
    builders: Mapping[Task, Build] = field(default_factory=dict)
    """The tasks that it serves, other than text."""
    completions: str | None = None
    """The path of its text completions."""
    hosts: frozenset[str] = frozenset()
    """Hosts that its answers name. They are called through the router, since they require a key of their own."""
    holders: tuple[str, ...] = ()
    """Fields of an answer that hold its files."""
    file_fields: tuple[str, ...] = ()
    """Fields of a holder's entry that hold one file: an address or base64."""
    adapt: Callable[[str, str], dict[str, Any]] = lambda *_: {}
    """From a model id and the address of weights (LoRA): the parameters that apply these weights to that model."""


def parameters(call: Call, **renamed: str) -> dict[str, Any]:
    """The call's parameters under the provider's names."""
    return {renamed.get(name, name): value for name, value in parameters_of(call).items()}


def speech_parameters(call: Call) -> dict[str, Any]:
    """The call's parameters, without the nesting that hf-inference requires."""
    given = dict(call.parameters)
    return {**(given.pop("generation_parameters", None) or {}), **given}


def input_file(call: Call) -> Base64:
    """The file of the input, as a `data:` URL."""
    return as_data_url(attachment_of(call, file_of(call)))


def path_of(native_id: str) -> str:
    return quote(native_id, safe="/", errors="replace")


def openai_call(path: str) -> Build:
    """Speech and embeddings in OpenAI's shape, at this path."""

    def build(call: Call, native_id: str, url: str) -> WireRequest:
        if call.task is Task.FEATURE_EXTRACTION:
            return post_json(call, url + path, embedding_body(call, native_id))
        body = {"model": native_id, "input": call.input_data["text"], **speech_parameters(call)}
        return post_json(call, url + path, body)

    return build
