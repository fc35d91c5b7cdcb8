"""Chooses what reads the answer to a call: by its task."""

from collections.abc import Mapping

from server.inference.events import Call
from server.inference.protocol.decipher import Decipherer, Judge
from server.inference.protocol.exchange import AnswerReader, OpenReader
from server.inference.protocol.faults import read_refusal


def reader_for(_call: Call, model: str | None, *, judge: Judge = read_refusal) -> OpenReader:
    """What makes the reader of an answer to this call, once its status and headers are there."""

    def open_reader(status: int, headers: Mapping[str, str]) -> AnswerReader:
        return Decipherer(status, headers, model=model, judge=judge)

    return open_reader
