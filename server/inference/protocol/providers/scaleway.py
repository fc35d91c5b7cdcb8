"""Scaleway: embeddings in OpenAI's shape."""

from server.inference.events import Task
from server.inference.protocol.providers.provider import Provider, openai_call

PROVIDER = Provider(name="scaleway", builders={Task.FEATURE_EXTRACTION: openai_call("/v1/embeddings")})
