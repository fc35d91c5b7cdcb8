"""Each fault of an upstream happens once to a request of the whole server: what its user gets, after how many calls."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from server.inference import breaker
from tests.acceptance.conftest import Api, Start, events_of
from tests.fakes.event_source import final_of, joined
from tests.fakes.huggingface import chat_answer
from tests.fakes.raw_upstream import Peer, RawUpstream
from tests.fakes.upstream_faults import FAULTS, Row, Table, UpstreamFault, whole

FINE = whole(200, chat_answer("fine").body, Content_Type="text/event-stream")
LONG_S = 8
"""What upstream asks more patience for goes back to the backlog: covered elsewhere, and too long for this."""
BY_MODEL = {
    f"org/{number}": fault
    for number, fault in enumerate(FAULTS)
    if (fault.retry_after_s or 0) <= LONG_S and not fault.name.startswith("401")
}
UNAUTHORISED = next(fault for fault in FAULTS if fault.name == "401")

Ask = Callable[[Api, str], Awaitable[Any]]


class Once:
    """Plays the fault of a model when it is first asked for, and answers it from then on."""

    def __init__(self, faults: dict[str, UpstreamFault]) -> None:
        self._faults = faults
        self.calls: Counter[str] = Counter()

    async def __call__(self, peer: Peer) -> None:
        while True:
            model = json.loads(await peer.read_request() or b'{"model": ""}')["model"]
            self.calls[model] += 1
            if self.calls[model] == 1 and model in self._faults:
                await self._faults[model].fail(peer)
            else:
                await peer.send(*FINE)


async def serve(start: Start, upstream: RawUpstream) -> Api:
    api = await start(
        inference_backend="huggingface",
        hf_base_url=upstream.url,
        allowed_models="*",
        text_models="org/any",
        model_timeout=2000,
        concurrency=64,
    )
    return await api.sign_up()


async def waited_for(api: Api, model: str) -> Any:
    """What the one call says that creates the request and waits for its end."""
    reply = await api.create("hello", model=model)
    assert reply.status == 200
    return reply.json


async def streamed(api: Api, model: str) -> Any:
    """What the request's own stream says at its end; the text that it told before is that of the end."""
    reply = await api.create_async("hello", model=model)
    async with events_of(api, f"/api/requests/{reply.json['id']}/events") as source:
        events = await source.all(60)
    final = final_of(events).data
    assert joined(events) == (final["output_data"] or {}).get("output", "")
    assert final == (await api.get(f"/api/requests/{reply.json['id']}")).json
    return final


@pytest.mark.parametrize("ask", [waited_for, streamed])
async def test_every_fault_ends_as_it_should(start: Start, monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
    monkeypatch.setattr(breaker, "THRESHOLD", 10_000)  # so many faults at once would pass for one that is away
    once, table = Once(BY_MODEL), Table()
    async with RawUpstream(once) as upstream:
        api = await serve(start, upstream)
        ends = await asyncio.gather(*(ask(api, model) for model in BY_MODEL))
    problems: list[str] = []
    for (model, fault), found in zip(BY_MODEL.items(), ends, strict=True):
        output = found["output_data"] or {}
        table.rows.append(Row(fault.name, found["status"], once.calls[model], found["error_msg"] or ""))
        if fault.is_transient or fault.text is not None:
            is_right = found["status"] == "completed" and output["output"] == (fault.text or "fine")
        else:
            is_right = (
                (found["status"], found["error_code"]) == ("failed", "MODEL_ERROR")
                and ("within" in fault.words or fault.words in found["error_msg"])
                and output.get("output", "").startswith(fault.partial or "")
                and output.get("partial", False) is (fault.partial is not None)
            )
        if not is_right or once.calls[model] != 1 + fault.is_transient:
            problems.append(f"{fault.name}: {found}, {once.calls[model]} calls")
    table.show(f"Faults that happen once, through the whole server, {ask.__name__.replace('_', ' ')}")
    assert not problems


async def test_a_token_that_is_refused_fails_what_follows_without_a_call(start: Start) -> None:
    once = Once({"org/any": UNAUTHORISED})
    async with RawUpstream(once) as upstream:
        api = await serve(start, upstream)
        first = await api.create("hello")
        others = await asyncio.gather(*(api.create("hello", model=f"org/{number}") for number in range(10)))
    assert "HF_API_TOKEN" in first.json["error_msg"]
    assert {other.json["error_msg"] for other in others} == {first.json["error_msg"]}
    assert once.calls.total() - once.calls[""] == 1
