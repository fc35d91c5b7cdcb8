"""The file that tells a successor who is dead."""

from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from server.commands.instance_file import MAX_DEAD_IDS, InstanceFile
from server.model_request import InstanceId


def _live_and_die(path: Path, instance_id: InstanceId) -> list[InstanceId]:
    with InstanceFile(path) as file:
        return file.claim(instance_id)


def test_a_successor_learns_of_all_who_died_the_last_one_first(tmp_path: Path) -> None:
    path, ids = tmp_path / "instance", [InstanceId(uuid4()) for _ in range(MAX_DEAD_IDS + 3)]
    for number, instance_id in enumerate(ids):
        assert _live_and_die(path, instance_id) == ids[:number][::-1][:MAX_DEAD_IDS]


def test_whoever_lives_keeps_its_place(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(InstanceFile(tmp_path / "instance")).claim(InstanceId(uuid4()))
        with InstanceFile(tmp_path / "instance") as other, pytest.raises(BlockingIOError):
            other.claim(InstanceId(uuid4()))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\xfe"])
def test_a_file_that_says_nothing_names_nobody(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "instance").write_bytes(content)
    assert _live_and_die(tmp_path / "instance", InstanceId(uuid4())) == []
