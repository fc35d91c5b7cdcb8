"""huggingface_hub's InferenceClient."""

import json

from harness import HELLO, WEATHER, WHO, Server, calls, run, weather
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


def client(server: Server):
    return InferenceClient(base_url=server.url, token=server.key)


def ask(server: Server, prompt: str, *, model=None, **options):
    messages = [{"role": "user", "content": prompt}]
    answer = client(server).chat_completion(messages, model=model, **options)
    return answer.choices[0].message.content


def streamed(server: Server):
    with client(server) as hub:
        chunks = hub.chat_completion([{"role": "user", "content": HELLO}], stream=True)
        return [text for chunk in chunks if chunk.choices and (text := chunk.choices[0].delta.content)]


def tools(server: Server):
    """The message of the answer is sent back as the object that the client gave."""
    messages = [{"role": "user", "content": WEATHER}]
    said = client(server).chat_completion(messages, tools=[TOOL], tool_choice="auto").choices[0].message
    [call] = said.tool_calls
    arguments = call.function.arguments
    result = weather(**(json.loads(arguments) if isinstance(arguments, str) else arguments))
    messages += [said, {"role": "tool", "tool_call_id": call.id, "content": result}]
    return [calls, client(server).chat_completion(messages, tools=[TOOL]).choices[0].message.content]


def structured(server: Server):
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    answer = client(server).chat_completion([{"role": "user", "content": WHO}], response_format=wanted)
    return json.loads(answer.choices[0].message.content)


def images(server: Server):
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": server.image}}]
    return client(server).chat_completion([{"role": "user", "content": parts}]).choices[0].message.content


if __name__ == "__main__":
    errors = {"key": HfHubHTTPError, "model": HfHubHTTPError, "temperature": BadRequestError, "length": BadRequestError}
    run(ask, streamed, tools, structured, images, errors=errors)
