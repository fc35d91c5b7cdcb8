"""LiteLLM as a library, with its provider for OpenAI-compatible servers."""

import json

import litellm
from harness import HELLO, TEXTS, WEATHER, WHO, Server, calls, run, weather
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


def complete(server: Server, messages, model="default", **options):
    return litellm.completion(f"openai/{model}", messages=messages, api_base=server.url, api_key=server.key, **options)


def ask(server: Server, prompt: str, **options):
    return complete(server, [{"role": "user", "content": prompt}], **options).choices[0].message.content


def streamed(server: Server):
    chunks = complete(server, [{"role": "user", "content": HELLO}], stream=True, stream_options={"include_usage": True})
    return [text for chunk in chunks if chunk.choices and (text := chunk.choices[0].delta.content)]


def tools(server: Server):
    messages = [{"role": "user", "content": WEATHER}]
    said = complete(server, messages, tools=[TOOL]).choices[0].message
    [call] = said.tool_calls
    result = weather(**json.loads(call.function.arguments))
    messages += [said, {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": result}]
    return [calls, complete(server, messages, tools=[TOOL]).choices[0].message.content]


def structured(server: Server):
    answer = complete(server, [{"role": "user", "content": WHO}], response_format=Person)
    return Person.model_validate_json(answer.choices[0].message.content).model_dump()


def embeddings(server: Server):
    answer = litellm.embedding("openai/default", input=TEXTS, api_base=server.url, api_key=server.key)
    return [item["embedding"] for item in answer.data]


def images(server: Server):
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": server.image}}]
    return complete(server, [{"role": "user", "content": parts}]).choices[0].message.content


ERRORS = {
    "key": litellm.AuthenticationError,
    "model": litellm.NotFoundError,
    "temperature": litellm.BadRequestError,
    "length": litellm.ContextWindowExceededError,
}

if __name__ == "__main__":
    run(ask, streamed, tools, structured, embeddings, images, errors=ERRORS)
