"""Log output that never blocks its caller: a thread writes lines from a bounded buffer."""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

MAX_BUFFER_BYTES = 1024 * 1024
CHUNK_BYTES = 4096
"""PIPE_BUF on Linux. Writes of at most this size to a pipe are atomic: lines of several processes do not mix."""
BATCH_S = 0.02
"""The thread waits this long before it writes, so that one system call serves many lines."""
CLOSE_TIMEOUT_S = 1.0


class LogWriter:
    """A text file for loggers. `write` takes whole lines and returns at once, even if nothing reads the descriptor.

    Lines beyond `max_bytes` are dropped and counted, and so are lines that cannot be written (broken pipe, full disk).
    When there is room again, `describe_drop(count)` is written; it returns a line with its newline.
    """

    def __init__(
        self, descriptor: int, *, describe_drop: Callable[[int], str], max_bytes: int = MAX_BUFFER_BYTES
    ) -> None:
        self._descriptor = descriptor
        self._describe_drop = describe_drop
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._bytes = 0  # size of all unwritten lines, including those that the thread has taken
        self._dropped = 0
        self._wakes: SimpleQueue[bool] = SimpleQueue()  # False ends the thread
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        line = text.encode(errors="backslashreplace")
        with self._lock:
            if self._bytes + len(line) > self._max_bytes:
                self._dropped += 1
                return len(text)
            self._bytes += len(line)
            self._lines.append(line)
            is_first = len(self._lines) == 1
        if is_first:
            self._wakes.put(True)  # noqa: FBT003 - a queue item, not a parameter
        return len(text)

    def flush(self) -> None:
        """Does nothing. Loggers call it after each line."""

    def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write the remaining lines, for at most `timeout_s`. Later lines are lost."""
        self._wakes.put(False)  # noqa: FBT003 - a queue item, not a parameter
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while self._wakes.get():
            time.sleep(BATCH_S)
            self._write_collected()
        self._write_collected()

    def _write_collected(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        if self._write_all(lines):
            self._report_dropped()

    def _write_all(self, lines: list[bytes]) -> bool:
        is_written = True
        for chunk, count in _chunks(lines):
            is_written = _write(self._descriptor, chunk)
            with self._lock:
                self._bytes -= len(chunk)
                if not is_written:
                    self._dropped += count
        return is_written

    def _report_dropped(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped and not _write(self._descriptor, self._describe_drop(dropped).encode()):
            with self._lock:
                self._dropped += dropped


def _chunks(lines: list[bytes]) -> Iterator[tuple[bytes, int]]:
    """Join lines to chunks of at most `CHUNK_BYTES`, each with its number of lines. A longer line stays whole."""
    begin, size = 0, 0
    for end, line in enumerate(lines):
        if size and size + len(line) > CHUNK_BYTES:
            yield b"".join(lines[begin:end]), end - begin
            begin, size = end, 0
        size += len(line)
    if size:
        yield b"".join(lines[begin:]), len(lines) - begin


def _write(descriptor: int, data: bytes) -> bool:
    """Write all of `data`, without a time limit. False if the descriptor fails."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # another process that shares the descriptor made it non-blocking
            _wait_writable(descriptor)
        except OSError:
            return False
    return True


def _wait_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    with contextlib.suppress(OSError):
        poll.poll()
