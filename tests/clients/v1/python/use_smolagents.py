"""smolagents: OpenAIModel alone, and in a ToolCallingAgent."""

import base64
import io
import json

import openai
from harness import HELLO, WEATHER, WHO, Server, calls, run, weather
from PIL import Image
from smolagents import OpenAIModel, ToolCallingAgent, tool

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def model_of(server: Server, model="default", **options):
    return OpenAIModel(model, api_base=server.url, api_key=server.key, **options)


def question(*parts):
    return [{"role": "user", "content": [{"type": "text", "text": part} for part in parts]}]


def ask(server: Server, prompt: str, **options):
    return model_of(server, **options).generate(question(prompt)).content


def streamed(server: Server):
    return [delta.content for delta in model_of(server).generate_stream(question(HELLO)) if delta.content]


def tools(server: Server):
    agent = ToolCallingAgent([tool(weather)], model_of(server), max_steps=3, verbosity_level=0)
    return [calls, agent.run(WEATHER)]


def structured(server: Server):
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    return json.loads(model_of(server).generate(question(WHO), response_format=wanted).content)


def images(server: Server):
    """It encodes images itself."""
    image = Image.open(io.BytesIO(base64.b64decode(server.image.partition(",")[2])))
    [message] = question("What is it?")
    message["content"].append({"type": "image", "image": image})
    return model_of(server).generate([message]).content


ERRORS = {
    "key": openai.AuthenticationError,
    "model": openai.NotFoundError,
    "temperature": openai.BadRequestError,
    "length": openai.BadRequestError,
}

if __name__ == "__main__":
    run(ask, streamed, tools, structured, images, errors=ERRORS)
