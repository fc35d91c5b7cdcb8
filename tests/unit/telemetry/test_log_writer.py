"""The log's writer: nothing blocks, nothing is lost that has room, and what is lost is counted."""

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from server.telemetry.log_writer import CHUNK_BYTES, LogWriter, _chunks

LINE = "x" * 99 + "\n"


class Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def fill(self) -> int:
        """Write until nothing more fits; returns the number of bytes."""
        os.set_blocking(self.writing, False)
        size = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                size += os.write(self.writing, b"." * CHUNK_BYTES)
        os.set_blocking(self.writing, True)
        return size

    def read(self, size: int) -> str:
        data = b""
        while len(data) < size:
            data += os.read(self.reading, size - len(data))
        return data.decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for descriptor in (pipe.reading, pipe.writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _writer(pipe: Pipe, **options: int) -> LogWriter:
    return LogWriter(pipe.writing, describe_drop=lambda count: f"{count} dropped\n", **options)


def test_lines_are_written_in_order_and_close_writes_what_is_left(pipe: Pipe) -> None:
    writer = _writer(pipe)
    lines = [f"line {number}\n" for number in range(1000)]
    for line in lines:
        assert writer.write(line) == len(line)
        writer.flush()
    writer.close()
    os.close(pipe.writing)
    assert pipe.read(sum(map(len, lines))) == "".join(lines)
    assert os.read(pipe.reading, 1) == b""


@pytest.mark.parametrize("is_blocking", [True, False])
def test_a_full_pipe_blocks_nobody_and_dropped_lines_are_counted(pipe: Pipe, *, is_blocking: bool) -> None:
    before = pipe.fill()
    os.set_blocking(pipe.writing, is_blocking)
    writer = _writer(pipe, max_bytes=10 * len(LINE))
    for _ in range(17):
        writer.write(LINE)
    pipe.read(before)
    assert pipe.read(10 * len(LINE) + len("7 dropped\n")) == LINE * 10 + "7 dropped\n"
    writer.write("room again\n")
    writer.close()
    assert pipe.read(11) == "room again\n"


def test_close_gives_up_on_a_pipe_that_nobody_reads(pipe: Pipe) -> None:
    size = pipe.fill()
    writer = _writer(pipe)
    writer.write(LINE)
    writer.close(timeout_s=0.05)
    pipe.read(size + len(LINE))  # lets the thread end


def test_a_reader_that_left_costs_the_lines_and_nothing_else(pipe: Pipe) -> None:
    os.close(pipe.reading)
    writer = _writer(pipe)
    writer.write(LINE)
    writer.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "log-writer"]


def test_what_utf_8_cannot_hold_is_escaped(pipe: Pipe) -> None:
    writer = _writer(pipe)
    writer.write("ü \ud800\n")
    writer.close()
    os.close(pipe.writing)
    assert os.read(pipe.reading, 100).decode() == "ü \\ud800\n"


@pytest.mark.parametrize("sizes", [[], [1], [4096], [4097], [4000, 97], [4000, 96, 1], [5000, 1, 1], [1] * 9000])
def test_chunks_are_whole_lines_that_a_pipe_takes_in_one_piece(sizes: list[int]) -> None:
    lines = [b"x" * (size - 1) + b"\n" for size in sizes]
    chunks = list(_chunks(lines))
    assert b"".join(chunk for chunk, _ in chunks) == b"".join(lines)
    assert [chunk.count(b"\n") for chunk, _ in chunks] == [count for _, count in chunks]
    assert all(len(chunk) <= CHUNK_BYTES or count == 1 for chunk, count in chunks)
    assert all(chunk.endswith(b"\n") for chunk, _ in chunks)
