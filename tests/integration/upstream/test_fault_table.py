"""Each fault of an upstream, as bytes on a socket: its outcome, its words, what is kept, how many calls are made."""

from collections.abc import Iterator

import pytest

from server.inference.events import Delta, GenerationFailed
from server.inference.huggingface import HuggingFace
from server.model_request import Completed
from tests.fakes.raw_upstream import RawUpstream
from tests.fakes.upstream_faults import FAULTS, GAP_S, TIMEOUT_S, Row, Table, UpstreamFault
from tests.integration.upstream.generations import TOKEN, Sleeper, call


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    table = Table()
    yield table
    table.show("Faults of an upstream, with three retries at most")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_has_its_outcome(fault: UpstreamFault, table: Table) -> None:
    sleep = Sleeper()
    async with RawUpstream(fault.play) as upstream:
        client = HuggingFace(
            base_url=upstream.url,
            token=TOKEN,
            timeout_s=TIMEOUT_S,
            gap_s=GAP_S,
            max_retries=3,
            connections=4,
            sleep=sleep,
            jitter=lambda _low, high: high,
        )
        *steps, last = [event async for event in client.generate(call(), timeout_s=60)]
        await client.close()
        calls = sum(peer.requests for peer in upstream.peers)
    message = last.message if isinstance(last, GenerationFailed) else ""
    table.rows.append(Row(fault.name, outcome_of(last), calls, message))
    text = "".join(step.text for step in steps if isinstance(step, Delta))
    assert calls == fault.calls
    if fault.text is not None:
        assert isinstance(last, Completed)
        assert last.output_data["output"] == text == fault.text
        return
    assert isinstance(last, GenerationFailed)
    assert fault.words in last.message
    assert "<" not in last.message
    assert last.transient is fault.is_transient
    assert last.retry_after_s == fault.retry_after_s
    assert text.startswith(fault.partial or "")
    assert (last.output_data or {}).get("output", "") == text
    assert "finish_reason" not in (last.output_data or {})
    if fault.pauses is not None:
        assert sleep.pauses == pytest.approx(list(fault.pauses))


def outcome_of(last: object) -> str:
    if isinstance(last, Completed):
        return "completed"
    assert isinstance(last, GenerationFailed)
    if last.transient:
        return "back to the backlog"
    return "failed, text kept" if last.output_data else "failed"
