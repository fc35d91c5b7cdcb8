"""Pydantic AI: an Agent with OpenAIChatModel."""

import base64

from harness import HELLO, TEXTS, WEATHER, WHO, Server, calls, run, weather
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, Embedder, NativeOutput, PromptedOutput
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.exceptions import (
    ModelAuthenticationError,
    ModelContextWindowExceededError,
    ModelNotFoundError,
    ModelRequestRejectedError,
)
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    name: str
    age: int


def provider(server: Server):
    return OpenAIProvider(base_url=server.url, api_key=server.key)


def agent(server: Server, model="default", **options):
    return Agent(OpenAIChatModel(model, provider=provider(server)), **options)


def ask(server: Server, prompt: str, *, model="default", **options):
    return agent(server, model, model_settings=options).run_sync(prompt).output


def streamed(server: Server):
    result = agent(server).run_stream_sync(HELLO)
    return list(result.stream_text(delta=True, debounce_by=None))


def tools(server: Server):
    return [calls, agent(server, tools=[weather]).run_sync(WEATHER).output]


def structured(server: Server):
    """By a tool, by a schema, and by a prompt."""
    people = [
        agent(server, output_type=way).run_sync(WHO).output
        for way in (Person, NativeOutput(Person), PromptedOutput(Person))
    ]
    assert people[0] == people[1] == people[2], people
    return people[0].model_dump()


def embeddings(server: Server):
    embedder = Embedder(OpenAIEmbeddingModel("default", provider=provider(server)))
    return [list(vector) for vector in embedder.embed_documents_sync(TEXTS).embeddings]


def images(server: Server):
    data = base64.b64decode(server.image.partition(",")[2])
    return agent(server).run_sync(["What is it?", BinaryContent(data, media_type="image/png")]).output


ERRORS = {
    "key": ModelAuthenticationError,
    "model": ModelNotFoundError,
    "temperature": ModelRequestRejectedError,
    "length": ModelContextWindowExceededError,
}

if __name__ == "__main__":
    run(ask, streamed, tools, structured, embeddings, images, errors=ERRORS)
