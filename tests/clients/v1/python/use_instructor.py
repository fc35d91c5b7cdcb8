"""instructor, in its modes for tools and for JSON."""

import instructor
import openai
from harness import HELLO, WHO, Server, run
from instructor import Mode
from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


MODES = (Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON, Mode.JSON_SCHEMA)


def client(server: Server, mode=Mode.TOOLS):
    return instructor.from_openai(OpenAI(base_url=server.url, api_key=server.key), mode=mode)


def ask(server: Server, prompt: str, *, model="default", **options):
    """Without a response model it returns what its OpenAI client returns."""
    messages = [{"role": "user", "content": prompt}]
    answer = client(server).create(response_model=None, model=model, messages=messages, max_retries=1, **options)
    return answer.choices[0].message.content


def streamed(server: Server):
    messages = [{"role": "user", "content": HELLO}]
    chunks = client(server).create(response_model=None, model="default", messages=messages, stream=True)
    return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]


def structured(server: Server):
    """By a required tool, by a schema, and in pieces."""
    question = {"model": "default", "messages": [{"role": "user", "content": WHO}]}
    people = [client(server, mode).create(response_model=Person, **question).model_dump() for mode in MODES]
    *_, last = client(server).create_partial(response_model=Person, **question)
    assert all(person == last.model_dump() for person in people), people
    return people[0]


def images(server: Server):
    content = ["What is it?", instructor.Image.from_base64(server.image)]
    messages = [{"role": "user", "content": content}]
    answer = client(server).create(response_model=None, model="default", messages=messages)
    return answer.choices[0].message.content


ERRORS = {
    "key": openai.AuthenticationError,
    "model": openai.NotFoundError,
    "temperature": openai.BadRequestError,
    "length": openai.BadRequestError,
}

if __name__ == "__main__":
    run(ask, streamed, structured, images, errors=ERRORS)
