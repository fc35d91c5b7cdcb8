"""The existing client waits up to 90 s in one call: what takes 1 s, 20 s or 80 s is in the answer to its create."""

import dataclasses

import pytest

from tests.acceptance.conftest import Start
from tests.fakes.huggingface import FakeHuggingFace, chat_answer

CLIENT_READ_TIMEOUT_S = 90


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seconds", [80, 20, 1])
async def test_a_create_is_answered_with_the_final_object(start: Start, seconds: int) -> None:
    answer = dataclasses.replace(chat_answer("Once upon ", "a time", usage=(5, 4)), delay_s=seconds)
    async with FakeHuggingFace(answer) as upstream:
        settings = {"inference_backend": "huggingface", "hf_base_url": upstream.url, "text_models": "org/model"}
        api = await (await start(**settings)).sign_up()
        reply = await api.post(
            "/api/requests",
            {"model_type": "text2text", "input_data": {"prompt": "Write a story"}},
            timeout=CLIENT_READ_TIMEOUT_S,
        )
    assert reply.status == 200
    assert reply.json["status"] == "completed"
    assert not reply.json["error_msg"]
    assert reply.json["output_data"]["output"] == "Once upon a time"
    assert (reply.json["token_used"], reply.json["token_count"]) == (9, 4)
    assert reply.json["processing_time"] >= seconds
