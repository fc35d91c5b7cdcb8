"""The wire protocol of Hugging Face and compatible servers: bytes in, events out, no I/O.

`build` makes the request of a call, `reader_for` the reader of its answer, and `ask` both. All are pure, so every
recorded answer is tested without a network.
"""

from server.inference.protocol.addresses import is_router
from server.inference.protocol.calls import ask, build, build_listing, build_probe, reader_for
from server.inference.protocol.edge import build_edge_call, build_edge_probe, read_edge_refusal
from server.inference.protocol.exchange import AnswerReader, FollowUp, OpenReader, Progress
from server.inference.protocol.faults import Failure, UpstreamError, is_success, read_refusal
from server.inference.protocol.forms import KnownForms, ask_in_known_form
from server.inference.protocol.listing import read_models
from server.inference.protocol.text_response_reader import BROKEN_OFF, Judge, TextResponseReader
from server.inference.protocol.texts import Unintelligible, to_words
from server.inference.protocol.wire import BadModel, FilePart, WireRequest

__all__ = [
    "BROKEN_OFF",
    "AnswerReader",
    "BadModel",
    "Failure",
    "FilePart",
    "FollowUp",
    "Judge",
    "KnownForms",
    "OpenReader",
    "Progress",
    "TextResponseReader",
    "Unintelligible",
    "UpstreamError",
    "WireRequest",
    "ask",
    "ask_in_known_form",
    "build",
    "build_edge_call",
    "build_edge_probe",
    "build_listing",
    "build_probe",
    "is_router",
    "is_success",
    "read_edge_refusal",
    "read_models",
    "read_refusal",
    "reader_for",
    "to_words",
]
