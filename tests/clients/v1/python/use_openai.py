"""openai, the client of OpenAI itself."""

import openai
from harness import TEXTS, WEATHER, WHO, Server, calls, run, weather
from openai import OpenAI
from openai.lib.streaming.chat import ContentDeltaEvent
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}


def client(server: Server):
    return OpenAI(base_url=server.url, api_key=server.key)


def ask(server: Server, prompt: str, *, model="default", **options):
    messages = [{"role": "user", "content": prompt}]
    answer = client(server).chat.completions.create(model=model, messages=messages, **options)
    return answer.choices[0].message.content


def streamed(server: Server):
    messages = [{"role": "user", "content": "Say hello."}]
    with client(server).chat.completions.stream(
        model="default", messages=messages, stream_options={"include_usage": True}
    ) as stream:
        texts = [event.delta for event in stream if isinstance(event, ContentDeltaEvent)]
        final = stream.get_final_completion()
    assert final.usage.total_tokens > 0
    assert final.choices[0].message.content == "".join(texts)
    return texts


def tools(server: Server):
    """`parse` gives messages with fields of its own, which are sent back as they are."""
    messages = [{"role": "user", "content": WEATHER}]
    first = client(server).chat.completions.parse(model="default", messages=messages, tools=[TOOL])
    said = first.choices[0].message
    [call] = said.tool_calls
    result = weather(**call.function.parsed_arguments)
    messages += [said, {"role": "tool", "tool_call_id": call.id, "content": result}]
    second = client(server).chat.completions.create(model="default", messages=messages, tools=[TOOL])
    return [calls, second.choices[0].message.content]


def structured(server: Server):
    messages = [{"role": "user", "content": WHO}]
    chat = client(server).chat.completions
    answer = chat.parse(model="default", messages=messages, response_format=Person).choices[0].message
    more = [*messages, answer, {"role": "user", "content": "Again."}]
    again = chat.parse(model="default", messages=more, response_format=Person).choices[0].message
    assert again.parsed == answer.parsed
    return answer.parsed.model_dump()


def embeddings(server: Server):
    return [item.embedding for item in client(server).embeddings.create(model="default", input=TEXTS).data]


def images(server: Server):
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": server.image}}]
    messages = [{"role": "user", "content": parts}]
    return client(server).chat.completions.create(model="default", messages=messages).choices[0].message.content


ERRORS = {
    "key": openai.AuthenticationError,
    "model": openai.NotFoundError,
    "temperature": openai.BadRequestError,
    "length": openai.BadRequestError,
}

if __name__ == "__main__":
    run(ask, streamed, tools, structured, embeddings, images, errors=ERRORS)
