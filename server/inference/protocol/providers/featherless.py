"""Featherless AI: text completions."""

from server.inference.protocol.providers.provider import Provider

PROVIDER = Provider(name="featherless-ai", completions="/v1/completions")
