"""LangChain: ChatOpenAI and OpenAIEmbeddings."""

import openai
from harness import HELLO, TEXTS, WEATHER, WHO, Server, calls, run, weather
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def chat(server: Server, model="default", **options):
    return ChatOpenAI(base_url=server.url, api_key=server.key, model=model, **options)


def ask(server: Server, prompt: str, **options):
    return chat(server, **options).invoke(prompt).content


def streamed(server: Server):
    return [chunk.content for chunk in chat(server).stream(HELLO) if chunk.content]


def tools(server: Server):
    known = tool(weather)
    model = chat(server).bind_tools([known], parallel_tool_calls=False)
    messages = [HumanMessage(WEATHER)]
    said = model.invoke(messages)
    messages += [said, *(known.invoke(call) for call in said.tool_calls)]
    return [calls, model.invoke(messages).content]


def structured(server: Server):
    """By each of its ways."""
    methods = ("json_schema", "function_calling", "json_mode")
    people = [chat(server).with_structured_output(Person, method=method).invoke(WHO) for method in methods]
    assert people[0] == people[1] == people[2], people
    return people[0].model_dump()


def embeddings(server: Server):
    """Its default sends tokens, whose model it must know."""
    return OpenAIEmbeddings(
        base_url=server.url, api_key=server.key, model="default", check_embedding_ctx_length=False
    ).embed_documents(TEXTS)


def images(server: Server):
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": server.image}}]
    return chat(server).invoke([HumanMessage(parts)]).content


ERRORS = {
    "key": openai.AuthenticationError,
    "model": openai.NotFoundError,
    "temperature": openai.BadRequestError,
    "length": openai.BadRequestError,
}

if __name__ == "__main__":
    run(ask, streamed, tools, structured, embeddings, images, errors=ERRORS)
