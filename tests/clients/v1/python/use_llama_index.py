"""LlamaIndex: OpenAILike and OpenAILikeEmbedding."""

import openai
from harness import HELLO, TEXTS, WEATHER, WHO, Server, calls, run, weather
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def model_of(server: Server, model="default", **options):
    return OpenAILike(
        model=model,
        api_base=server.url,
        api_key=server.key,
        is_chat_model=True,
        is_function_calling_model=True,
        **options,
    )


def ask(server: Server, prompt: str, *, model="default", **options):
    """The field `temperature` of the class would refuse a wrong value itself."""
    return model_of(server, model, additional_kwargs=options).chat([ChatMessage(prompt)]).message.content


def streamed(server: Server):
    return [chunk.delta for chunk in model_of(server).stream_chat([ChatMessage(HELLO)]) if chunk.delta]


def tools(server: Server):
    known, model = FunctionTool.from_defaults(weather), model_of(server)
    history = [ChatMessage(WEATHER)]
    answer = model.chat_with_tools([known], chat_history=history)
    history.append(answer.message)
    for call in model.get_tool_calls_from_response(answer):
        result = known(**call.tool_kwargs).content
        more = {"tool_call_id": call.tool_id}
        history.append(ChatMessage(result, role=MessageRole.TOOL, additional_kwargs=more))
    return [calls, model.chat_with_tools([known], chat_history=history).message.content]


def structured(server: Server):
    """By a tool, and by `response_format`."""
    people = [
        model_of(server, should_use_structured_outputs=by_format).structured_predict(Person, PromptTemplate(WHO))
        for by_format in (False, True)
    ]
    assert people[0] == people[1], people
    return people[0].model_dump()


def embeddings(server: Server):
    model = OpenAILikeEmbedding(model_name="default", api_base=server.url, api_key=server.key)
    return model.get_text_embedding_batch(TEXTS)


def images(server: Server):
    message = ChatMessage(blocks=[TextBlock(text="What is it?"), ImageBlock(url=server.image)])
    return model_of(server).chat([message]).message.content


ERRORS = {
    "key": openai.AuthenticationError,
    "model": openai.NotFoundError,
    "temperature": openai.BadRequestError,
    "length": openai.BadRequestError,
}

if __name__ == "__main__":
    run(ask, streamed, tools, structured, embeddings, images, errors=ERRORS)
