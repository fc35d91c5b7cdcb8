"""Novita: text completions."""

from server.inference.protocol.providers.provider import Provider

PROVIDER = Provider(name="novita", completions="/v3/openai/completions")
