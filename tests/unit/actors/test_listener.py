"""The listener takes whatever comes on its channels: anybody who may connect to the database may NOTIFY."""

from typing import Any, cast

import pytest

from server.actors.heartbeat import Lease
from server.actors.listener import Listener
from server.actors.peer_notifier import EVERYONE, PeerNotifier, channel_of
from server.encoding import dumps


@pytest.fixture
def heard() -> list[Any]:
    return []


@pytest.fixture
def listener(heard: list[Any]) -> Listener:
    def take(value: int) -> None:
        heard.append(value + 1)

    return Listener(None, lease=Lease(), hints=cast("PeerNotifier", None), handlers={"take": take})


def receive(listener: Listener, payload: object, channel: str = EVERYONE) -> None:
    listener._receive(None, 1, channel, payload)


@pytest.mark.parametrize(
    "payload", ["", "garbage", "{", "null", "1", "[]", '"text"', "{}", "[1,2,3]", '["x",[]]', '["x",null]', "[[[[]]]]"]
)
def test_garbage_is_passed_over(listener: Listener, heard: list[Any], payload: str) -> None:
    receive(listener, payload)
    receive(listener, '["x",["take",1]]')
    assert heard == [2]


@pytest.mark.parametrize(
    "message", [[], ["take"], ["take", 1, 2], ["take", "one"], ["take", None], [["take"], 1], ["later", {}], 7, None]
)
def test_one_message_that_makes_no_sense_does_not_take_the_others_with_it(
    listener: Listener, heard: list[Any], message: Any
) -> None:
    receive(listener, dumps(["sender", ["take", 1], message, ["take", 2]]).decode())
    assert heard == [2, 3]


def test_what_was_said_to_everyone_is_not_heard_by_who_said_it(listener: Listener, heard: list[Any]) -> None:
    own_id = listener._lease.instance_id
    receive(listener, dumps([own_id, ["take", 1]]).decode())
    receive(listener, dumps([own_id, ["take", 2]]).decode(), channel_of(own_id))
    assert heard == [3]
