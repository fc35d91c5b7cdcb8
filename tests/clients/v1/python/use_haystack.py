"""Haystack: OpenAIChatGenerator, ToolInvoker and the embedders."""

import openai
from harness import HELLO, TEXTS, WEATHER, WHO, Server, calls, run, weather
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, ImageContent
from haystack.tools import create_tool_from_function
from haystack.utils import Secret
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def generator(server: Server, model="default", tools=None, callback=None, **options):
    return OpenAIChatGenerator(
        api_key=Secret.from_token(server.key),
        api_base_url=server.url,
        model=model,
        tools=tools,
        streaming_callback=callback,
        generation_kwargs=options,
    )


def ask(server: Server, prompt: str, **options):
    [reply] = generator(server, **options).run([ChatMessage.from_user(prompt)])["replies"]
    return reply.text


def streamed(server: Server):
    texts = []
    generator(server, callback=lambda chunk: texts.append(chunk.content)).run([ChatMessage.from_user(HELLO)])
    return [text for text in texts if text]


def tools(server: Server):
    known = create_tool_from_function(weather)
    model = generator(server, tools=[known])
    messages = [ChatMessage.from_user(WEATHER)]
    [said] = model.run(messages)["replies"]
    results = [ChatMessage.from_tool(known.invoke(**call.arguments), origin=call) for call in said.tool_calls]
    messages += [said, *results]
    [reply] = model.run(messages)["replies"]
    return [calls, reply.text]


def structured(server: Server):
    [reply] = generator(server, response_format=Person).run([ChatMessage.from_user(WHO)])["replies"]
    return Person.model_validate_json(reply.text).model_dump()


def embeddings(server: Server):
    embedder = OpenAIDocumentEmbedder(
        api_key=Secret.from_token(server.key), api_base_url=server.url, model="default", progress_bar=False
    )
    documents = embedder.run([Document(content=text) for text in TEXTS])["documents"]
    return [document.embedding for document in documents]


def images(server: Server):
    image = ImageContent(server.image.partition(",")[2], mime_type="image/png")
    message = ChatMessage.from_user(content_parts=["What is it?", image])
    [reply] = generator(server).run([message])["replies"]
    return reply.text


ERRORS = {
    "key": openai.AuthenticationError,
    "model": openai.NotFoundError,
    "temperature": openai.BadRequestError,
    "length": openai.BadRequestError,
}

if __name__ == "__main__":
    run(ask, streamed, tools, structured, embeddings, images, errors=ERRORS)
