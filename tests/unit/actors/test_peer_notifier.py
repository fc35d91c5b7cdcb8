"""What instances say to each other: packed into few notifications, in order, and nothing while nobody listens."""

import asyncio
from typing import Any, cast
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.actors import peer_notifier as hints_module
from server.actors.heartbeat import Lease
from server.actors.peer_notifier import EVERYONE, IDS_PER_HINT, MAX_WAITING, PAYLOADS_AT_ONCE, PeerNotifier, channel_of
from server.model_request import InstanceId, mint_id
from server.storage.database import DatabaseAway, DedicatedConnection

POSTGRES_TAKES_BYTES = 7_999
INSTANCES = [InstanceId(uuid4()) for _ in range(3)]

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=1000)
_said = st.lists(st.tuples(st.sampled_from([None, *INSTANCES]), _texts), max_size=40)


class FakeLine:
    """Keeps what was sent, by channel."""

    def __init__(self) -> None:
        self.payloads: list[tuple[str, str]] = []
        self.calls = 0
        self.failures = 0
        self.failed = asyncio.Event()
        self.answered = asyncio.Event()

    async def fetch(self, _query: str, channels: list[str], payloads: list[str]) -> list[Any]:
        self.calls += 1
        assert len(payloads) <= PAYLOADS_AT_ONCE
        if self.failures:
            self.failures -= 1
            self.failed.set()
            raise DatabaseAway("no answer")
        self.payloads += zip(channels, payloads, strict=True)
        self.answered.set()
        return []

    def heard(self, channel: str) -> list[Any]:
        """The messages, as a listener takes them out."""
        return [message for at, text in self.payloads if at == channel for message in orjson.loads(text)[1:]]


def hints_on(line: FakeLine, *, others: int = 1) -> tuple[PeerNotifier, Lease]:
    lease = Lease()
    lease.live_instances = 1 + others
    return PeerNotifier(cast("DedicatedConnection", line), lease=lease), lease


async def test_many_short_messages_are_no_more_than_postgres_takes() -> None:
    line = FakeLine()
    hints, _ = hints_on(line)
    for _ in range(2000):
        hints.notify_all("a")
    await hints._flush()
    assert line.heard(EVERYONE) == [["a"]] * 2000
    assert max(len(text.encode()) for _, text in line.payloads) <= POSTGRES_TAKES_BYTES


@given(_said)
def test_every_message_arrives_in_its_order_in_payloads_that_postgres_takes(
    said: list[tuple[InstanceId | None, str]],
) -> None:
    line = FakeLine()
    hints, lease = hints_on(line)
    for instance, text in said:
        if instance is None:
            hints.notify_all("text", text)
        else:
            hints.notify(instance, "text", text)
    asyncio.run(hints._flush())
    for instance in (None, *INSTANCES):
        channel = EVERYONE if instance is None else channel_of(instance)
        assert line.heard(channel) == [["text", text] for to, text in said if to == instance]
    for _, payload in line.payloads:
        assert len(payload.encode()) <= POSTGRES_TAKES_BYTES
        assert orjson.loads(payload)[0] == str(lease.instance_id)


async def test_many_short_messages_share_a_payload() -> None:
    line = FakeLine()
    hints, _ = hints_on(line)
    for _ in range(500):
        hints.notify_all("backlog")
    await hints._flush()
    assert (line.calls, len(line.payloads)) == (1, 1)


async def test_changes_are_told_once_each_and_none_is_left_out() -> None:
    line = FakeLine()
    hints, _ = hints_on(line)
    ids = [mint_id() for _ in range(2 * IDS_PER_HINT + 7)]
    for request_id in ids + ids:
        hints.changed(request_id)
    await hints._flush()
    told = [text for kind, texts in line.heard(EVERYONE) if kind == "changed" for text in texts]
    assert told == [str(request_id) for request_id in ids]
    assert max(len(payload.encode()) for _, payload in line.payloads) <= POSTGRES_TAKES_BYTES


async def test_what_waits_while_the_database_does_not_answer_is_bounded() -> None:
    line = FakeLine()
    hints, _ = hints_on(line)
    for number in range(2 * MAX_WAITING):
        hints.notify_all("text", number, "x" * 5_000)
    await hints._flush()
    assert [number for _, number, _ in line.heard(EVERYONE)] == list(range(MAX_WAITING, 2 * MAX_WAITING))


async def test_nothing_is_said_while_nobody_else_lives() -> None:
    line = FakeLine()
    hints, _ = hints_on(line, others=0)
    hints.notify(INSTANCES[0], "echo")
    hints.notify_all("backlog")
    hints.changed(mint_id())
    await hints._flush()
    assert line.calls == 0


async def test_a_message_that_fits_no_payload_is_left_out_alone() -> None:
    line = FakeLine()
    hints, _ = hints_on(line)
    for text in ("before", "x" * 9_000, "after"):
        hints.notify(INSTANCES[0], text)
    hints.notify(INSTANCES[1], "x" * 9_000)
    await hints._flush()
    assert line.heard(channel_of(INSTANCES[0])) == [["before"], ["after"]]
    assert {channel for channel, _ in line.payloads} == {channel_of(INSTANCES[0])}


async def test_a_database_that_is_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints_module, "_RETRY_S", 0.0)
    line = FakeLine()
    line.failures = 1
    hints, _ = hints_on(line)
    hints.notify_all("lost")
    run = asyncio.create_task(hints.run())
    async with asyncio.timeout(5):
        await line.failed.wait()
        hints.notify_all("heard")
        await line.answered.wait()
    run.cancel()
    assert line.heard(EVERYONE) == [["heard"]]
