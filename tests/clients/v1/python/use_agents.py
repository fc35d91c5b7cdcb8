"""OpenAI Agents SDK, with its model for chat completions."""

import asyncio

import openai
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool
from harness import HELLO, WEATHER, WHO, Server, calls, run, weather
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def agent(server: Server, model="default", temperature=None, **options):
    client = AsyncOpenAI(base_url=server.url, api_key=server.key)
    return Agent(
        name="Helper",
        instructions="Be brief.",
        model=OpenAIChatCompletionsModel(model, client),
        model_settings=ModelSettings(temperature=temperature, include_usage=True),
        **options,
    )


def ask(server: Server, prompt: str, **options):
    return Runner.run_sync(agent(server, **options), prompt).final_output


def streamed(server: Server):
    async def texts():
        result = Runner.run_streamed(agent(server), HELLO)
        return [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
        ]

    return asyncio.run(texts())


def tools(server: Server):
    return [calls, Runner.run_sync(agent(server, tools=[function_tool(weather)]), WEATHER).final_output]


def structured(server: Server):
    return Runner.run_sync(agent(server, output_type=Person), WHO).final_output.model_dump()


def images(server: Server):
    parts = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": server.image, "detail": "auto"},
    ]
    return Runner.run_sync(agent(server), [{"role": "user", "content": parts}]).final_output


ERRORS = {
    "key": openai.AuthenticationError,
    "model": openai.NotFoundError,
    "temperature": openai.BadRequestError,
    "length": openai.BadRequestError,
}

if __name__ == "__main__":
    run(ask, streamed, tools, structured, images, errors=ERRORS)
