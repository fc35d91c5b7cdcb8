"""The providers behind the router whose calls have shapes of their own: one module each.

A new provider is a module with a `Provider` and an entry in `PROVIDERS`.
"""

from dataclasses import replace

from server.inference.events import Call, Task
from server.inference.protocol.addresses import is_dots
from server.inference.protocol.native_ids import NativeModel
from server.inference.protocol.providers import (
    deepinfra,
    fal,
    featherless,
    novita,
    nscale,
    replicate,
    scaleway,
    together,
    wavespeed,
)
from server.inference.protocol.providers.provider import Provider
from server.inference.protocol.wire import BadModel, WireRequest

PROVIDERS: dict[str, Provider] = {
    module.PROVIDER.name: module.PROVIDER
    for module in (fal, together, nscale, replicate, wavespeed, deepinfra, scaleway, featherless, novita)
}
"""By name. The order is that in which an answer of an unknown provider is searched for files."""


def serves(provider: str, task: Task) -> bool:
    """Whether this server can call this provider for this task."""
    return provider in PROVIDERS and task in PROVIDERS[provider].builders


def provider_at(host: str) -> str | None:
    """The provider that a host belongs to, if the router stands in front of it."""
    return next((provider.name for provider in PROVIDERS.values() if host in provider.hosts), None)


def build_at_provider(call: Call, name: str, native: NativeModel, base_url: str) -> WireRequest:
    """The request for a call that the provider serves. Raises `BadModel` for a model id that does not fit a path."""
    if any(is_dots(segment) or not segment for segment in native.id.split("/")):
        raise BadModel("The provider knows this model under no name that could be asked for.")
    provider = PROVIDERS[name]
    if native.adapter_url is not None:
        call = replace(call, parameters={**call.parameters, **provider.adapt(native.id, native.adapter_url)})
    return provider.builders[call.task](call, native.id, f"{base_url.rstrip('/')}/{name}")
